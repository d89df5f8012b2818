"""Golden tests of passes: `.mir` files that read like documentation.

A file holds cases. Each is: a line `// case: name`, a line `// pipeline: text`, perhaps `// exclude: pattern, pattern`,
`// limit: rewrites` or `// finite: why only finite inputs are compared`, the graph before, a line `// after`, the graph
after, a line `// remarks` and one comment line per remark. `pytest --bless` writes what is found after `// after`.
Each case also runs both graphs on random inputs and compares the results by the pipeline's effect class.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mcomp.ir import Graph, graph_text, parse_graph, verify
from mcomp.manager import Context, PassManager

_DIGEST = re.compile(r"(const @\S+)#[0-9a-f]{8}")
_CASE = re.compile(r"^// case: (.*)$", re.M)


@dataclass
class Case:
    """One case as written."""

    name: str
    options: dict[str, str]
    before: str
    after: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The case as it stands in a file."""
        lines = [f"// case: {self.name}", *(f"// {k}: {v}" for k, v in self.options.items()), self.before, "// after",
                 self.after]
        if self.remarks:
            lines += ["// remarks", *(f"// {r}" for r in self.remarks)]
        return "\n".join(lines) + "\n"


def read_cases(text: str) -> list[Case]:
    """The cases of a file. Raises ValueError for a case without a pipeline."""
    parts = _CASE.split(text)[1:]
    return [_read_case(name.strip(), body) for name, body in zip(parts[::2], parts[1::2])]


def _read_case(name: str, body: str) -> Case:
    before, _, rest = body.partition("\n// after\n")
    after, _, remarks = rest.partition("\n// remarks\n")
    options: dict[str, str] = {}
    lines = before.strip().splitlines()
    while lines and lines[0].startswith("// "):
        key, _, value = lines.pop(0)[3:].partition(": ")
        options[key] = value
    if "pipeline" not in options:
        raise ValueError(f"case {name} has no line `// pipeline: ...`")
    kept = [line.removeprefix("// ") for line in remarks.strip().splitlines()]
    return Case(name, options, "\n".join(lines), after.strip(), kept)


def run_case(case: Case) -> tuple[Case, Graph, Graph, PassManager]:
    """The case as it comes out, and the graphs before and after."""
    before = parse_graph(case.before, generate=True)
    after = before.clone()
    exclude = [p.strip() for p in case.options.get("exclude", "").split(",") if p.strip()]
    context = Context(exclude=exclude)
    if "limit" in case.options:
        context.rewrite_limit = int(case.options["limit"])
    manager = PassManager(case.options["pipeline"])
    manager.run(after, context)
    verify(after)
    text = _DIGEST.sub(r"\1#*", graph_text(after))
    found = Case(case.name, case.options, case.before, text, [str(r) for r in context.remarks])
    return found, before, after, manager


def worst_effect(manager: PassManager) -> str:
    """The weakest promise about numbers that the passes of a pipeline make."""
    order = ("exact", "rounding", "approximate")
    effects = [order.index(p.effect.value) for p in _passes(manager.steps)]
    return order[max(effects, default=0)]


def _passes(steps: Any) -> Iterator[Any]:
    for step in steps:
        if hasattr(step, "items"):
            yield from _passes(step.items)
        else:
            yield step


class MirFile(pytest.File):
    """A `.mir` file."""

    def collect(self) -> Iterator[pytest.Item]:
        for index, case in enumerate(read_cases(self.path.read_text())):
            yield MirCase.from_parent(self, name=case.name, index=index)


class MirCase(pytest.Item):
    """A case of a `.mir` file."""

    def __init__(self, *, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index

    def runtest(self) -> None:
        case = read_cases(self.path.read_text())[self.index]
        found, before, after, manager = run_case(case)
        from tests.numbers import check_same_numbers

        special = "finite" not in case.options
        check_same_numbers(before, after, worst_effect(manager), special=special)
        if self.config.getoption("bless"):
            _bless(self.path, self.index, found)
            return
        if (found.after, found.remarks) != (case.after, case.remarks):
            difference = difflib.unified_diff(case.text.splitlines(), found.text.splitlines(), "expected", "found", "", "")
            pytest.fail("\n".join(difference) + "\n(run with --bless to accept)", pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name}: {self.name}"


def _bless(path: Path, index: int, case: Case) -> None:
    text = path.read_text()
    head = text[: _CASE.search(text).start()] if _CASE.search(text) else ""  # type: ignore[union-attr]
    cases = read_cases(text)
    cases[index] = case
    path.write_text(head + "\n".join(c.text for c in cases))
