"""Capture every model of the zoo and compare it with eager torch: the table that shows how general capture is.

    python -m benchmarks.zoo_check --models "text-encoder,llama*" --target cpu

`--target capture` interprets the captured graph; a backend's name compiles the model with `mcomp.optimize`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import zoo

TOLERANCE = 1e-4
SHARE = 0.95


@dataclass(frozen=True)
class Row:
    """What became of one model.

    `errors` are relative L2 errors of the results, and of the arguments that the model changes, at each batch size.
    `native_nodes` and `native_flops` are shares, 0 to 1. `round_trip`: printing and parsing gave the same text.
    """

    name: str
    family: str
    seconds: float
    nodes: int
    eager_modules: int
    opaque_nodes: int
    native_nodes: float
    native_flops: float
    errors: tuple[float, ...]
    round_trip: bool
    notes: tuple[str, ...] = ()
    failure: str = ""

    @property
    def good(self) -> bool:
        """Whether the model meets every requirement."""
        close = not self.failure and all(error <= TOLERANCE for error in self.errors)
        shares = self.native_nodes >= SHARE and self.native_flops >= SHARE
        return close and shares and self.round_trip and self.eager_modules == 0


def check(entry: zoo.Entry, target: str = "capture", batches: Sequence[int] = (2, 3, 1)) -> Row:
    """Capture (and compile) at the first batch size, compare at all of them."""
    start = time.perf_counter()
    model = entry.build()
    args, kwargs = entry.inputs(batches[0])
    try:
        if target == "capture":
            return _captured(entry, model, args, kwargs, batches, start)
        return _compiled(entry, model, args, kwargs, batches, start, target)
    except Exception as error:
        message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Row(entry.name, entry.family, time.perf_counter() - start, 0, 0, 0, 0.0, 0.0, (), False, (), message)


def _captured(
    entry: zoo.Entry, model: Any, args: Any, kwargs: Any, batches: Sequence[int], start: float
) -> Row:
    from mcomp.capture import capture
    from mcomp.ir.parser import parse_graph
    from mcomp.ir.verify import verify
    from mcomp.ops.evaluate import bind_symbols

    captured = capture(model, args, kwargs)
    seconds = time.perf_counter() - start
    if captured.program is None:
        reasons = tuple(f"{one.path or 'the model'}: {one.reason}" for one in captured.eager)
        return Row(
            entry.name, entry.family, seconds, 0, len(captured.eager), 0, 0.0, 0.0, (), True, reasons, "captured in parts"
        )
    program = captured.program
    graph = program.graph
    verify(graph)
    text = str(graph)
    round_trip = str(parse_graph(text, graph.store)) == text
    nodes, opaque, share, work = _shares(graph, bind_symbols(graph, program.shapes))
    errors = tuple(compare(model, Interpreted(program), *entry.inputs(batch)) for batch in batches)
    notes = tuple(reason for _, reason, _ in captured.notes)
    return Row(entry.name, entry.family, seconds, nodes, 0, opaque, share, work, errors, round_trip, notes)


def _shares(graph: Any, symbols: dict[str, int]) -> tuple[int, int, float, float]:
    """Nodes, opaque nodes, native share of nodes and of FLOPs; constants do not count."""
    from mcomp.ops.binding import assume_symbols
    from mcomp.ops.opaque import is_opaque
    from mcomp.ops.workload import workload

    known = assume_symbols(graph, symbols)
    nodes = [node for node in graph.walk() if node.op.name != "const"]
    opaque = [node for node in nodes if is_opaque(node)]
    work = {node: float(workload(node, known).flops) for node in nodes}
    total = sum(work.values())
    native = 1 - sum(work[node] for node in opaque) / total if total else 1.0
    return len(nodes), len(opaque), 1 - len(opaque) / max(1, len(nodes)), native


class Interpreted:
    """A captured program, run by the reference meaning of its operators."""

    def __init__(self, program: Any) -> None:
        from mcomp.ops.encoded import weight_tensor

        self.program = program
        specs = [spec for spec in program.graph.input_specs if spec.kind == "state"]
        self.state = {spec.target: weight_tensor(program.graph.store.get(spec.initial)).clone() for spec in specs}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mcomp.capture import structure
        from mcomp.ops.evaluate import run_graph

        program = self.program
        bound = program.signature.bind(args, kwargs)
        leaves: list[Any] = []
        structure.collect(program.arguments, bound, leaves)
        outputs = run_graph(program.graph, [*leaves, *self.state.values()])
        results = []
        names = [value.name for value in program.graph.inputs]
        for spec, output in zip(program.graph.output_specs, outputs, strict=True):
            if spec.kind == "result":
                results.append(output)
            elif spec.kind == "mutated":
                leaves[names.index(spec.target)].copy_(output)
            else:
                self.state[spec.target] = output
        structure.apply_rebinds(program.rebinds, bound, results)
        return structure.build(program.results, results, bound)


def _compiled(
    entry: zoo.Entry, model: Any, args: Any, kwargs: Any, batches: Sequence[int], start: float, target: str
) -> Row:
    import mcomp

    fast = mcomp.optimize(model, args, kwargs, target=target, progress=False)
    seconds = time.perf_counter() - start
    report = fast.report()
    errors = tuple(compare(model, fast, *entry.inputs(batch)) for batch in batches)
    graphs = fast.ir.values() if isinstance(fast.ir, dict) else [fast.ir]
    nodes = sum(1 for graph in graphs for node in graph.nodes if node.op.name != "const")
    opaque = report.opaque_nodes if isinstance(report.opaque_nodes, int) else len(report.opaque_nodes)
    return Row(
        entry.name, entry.family, seconds, nodes, len(report.eager_modules), opaque, report.native_nodes,
        report.native_flops, errors, True,
    )


def compare(model: Any, other: Any, args: Any, kwargs: Any) -> float:
    """Relative L2 error of `other` to the model, over results and changed arguments; the worst tensor counts.

    Raises AssertionError where structures, shapes, dtypes or the places of NaN and infinity differ.
    """
    import torch

    from mcomp.capture import structure

    mine, theirs = copy.deepcopy((args, kwargs)), copy.deepcopy((args, kwargs))
    with torch.no_grad():
        expected, found = model(*mine[0], **mine[1]), other(*theirs[0], **theirs[1])
    assert type(expected) is type(found), f"{type(found).__name__} instead of {type(expected).__name__}"
    wanted: list[Any] = []
    given: list[Any] = []
    structure.describe((expected, mine), wanted)
    structure.describe((found, theirs), given)
    assert len(wanted) == len(given), f"{len(given)} tensors instead of {len(wanted)}"
    return max((_error(a, b) for a, b in zip(wanted, given, strict=True)), default=0.0)


def _error(a: Any, b: Any) -> float:
    import torch

    assert a.shape == b.shape, f"shape {list(b.shape)} instead of {list(a.shape)}"
    assert a.dtype == b.dtype, f"{b.dtype} instead of {a.dtype}"
    kind = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.detach().to(kind), b.detach().to(kind)
    finite = torch.isfinite(a)
    assert torch.equal(finite, torch.isfinite(b)), "NaN or infinity at other places"
    return float((a - b)[finite].norm() / (a[finite].norm() + 1e-12))


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text, what falls short explained below."""
    head = f"{'model':26} {'family':16} {'nodes':>6} {'opaque':>6} {'eager':>5}"
    lines = [f"{head} {'nodes %':>8} {'FLOPs %':>8} {'error':>9}"]
    notes = []
    for row in rows:
        worst = f"{max(row.errors):9.1e}" if row.errors else f"{'-':>9}"
        lines.append(
            f"{row.name:26} {row.family:16} {row.nodes:>6} {row.opaque_nodes:>6} {row.eager_modules:>5} "
            f"{100 * row.native_nodes:>8.1f} {100 * row.native_flops:>8.1f} {worst}{'' if row.good else '  *'}"
        )
        if not row.good:
            notes.append(f"* {row.name}: {row.failure or ''} {'; '.join(row.notes)[:400]}".rstrip())
    return "\n".join([*lines, "", *notes])


def main() -> int:
    """Check the chosen models, print the table; 1 when one fails outright."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="comma-separated name or family patterns")
    parser.add_argument("--target", default="capture", help="capture, or the name of a backend")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rows = []
    for entry in zoo.entries(options.models):
        row = check(entry, options.target)
        rows.append(row)
        print(table([row]).splitlines()[1], flush=True)
    good = sum(row.good for row in rows)
    print("\n" + table(rows))
    print(f"{good} of {len(rows)} models meet every requirement")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(not row.failure for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
