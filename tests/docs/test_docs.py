"""What the documents say is run: Python blocks in order, their output compared with the text block that follows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from mcomp.ir import graph_text, parse_graph, verify

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(name: str) -> list[tuple[str, str]]:
    found = BLOCK.findall((ROOT / "docs" / name).read_text())
    assert found, f"{name} has no blocks"
    return found


@pytest.mark.parametrize("name", ["writing-a-pass.md", "distilling.md", "planning.md"])
def test_python_and_what_it_prints(name: str) -> None:
    namespace: dict[str, object] = {"__name__": name.removesuffix(".md").replace("-", "_")}
    printed = ""
    for kind, text in blocks(name):
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, name, "exec"), namespace)
            printed = out.getvalue()
        elif kind == "text":
            assert printed.rstrip("\n").splitlines() == text.rstrip("\n").splitlines()


@pytest.mark.parametrize("text", [text for kind, text in blocks("reading-ir.md") if kind == "mir"])
def test_reading_ir(text: str) -> None:
    graph = parse_graph(text, generate=True)
    verify(graph)
    assert graph_text(parse_graph(graph_text(graph), graph.store)) == graph_text(graph)
