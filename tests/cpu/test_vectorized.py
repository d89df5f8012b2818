"""What the compiler reports of loops that have to be vectorized: in the drivers of norms, reductions and pools, and in
generated code, for the portable build, too."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
from kernel_harness import KERNELS, assembly, vectorized, vectorized_source

from mcomp.manager import Context
from mcomp.manager.run import PassManager
from tests.cpu.backend_harness import graph_of, needs_compiler

LOOPS = {
    "norm": {
        "lanes.hpp": ["lanes[j] += f(i + j);", "lanes[j] += f(i);", "const T v = f(i + j);", "const T v = f(i);"],
        "norm.hpp": ["y[i] = convert<Out>", "b[i] = convert<Out>", "y[at + c] = convert<Out>", "y[at + i] = convert<Out>"],
        "softmax.hpp": ["y[i] = convert<Out>", "sum[j] += math::exp_nonpositive", "put(i, j, Log"],
    },
    "reduce": {
        "lanes.hpp": ["lanes[j] += f(i + j);", "lanes[j] += f(i);"],
        "reduce.hpp": ["lanes[j] = op.step(", "lanes[j] += f(convert<C>", "total[j] = op.join("],
    },
    "pool": {
        "pool.hpp": [
            "sum[i] += convert<C>", "best[i] = math::maximum(", "best[c] = math::maximum(convert<C>(row[c])",
            "sum[c] += convert<C>(row[c])", "y[to + c] = convert<T>(sum[c]",
        ],
        "reduce.hpp": ["lanes[j] = op.step(lanes[j], f("],
    },
}
"""By driver and header: what the bodies of the loops begin with."""
PACKED = {"norm": ("addps", "mulps", "subps", "divps"), "reduce": ("addps", "mulps"), "pool": ("addps", "divps")}
"""Instructions on whole vectors that the portable build of a driver has on x86-64."""

GENERATED = """graph @generated [B in 1..] (%x: f32[B, 96], %y: f32[B, 64], %i: f32[B, 48, 8, 8])
    -> (f32[B, 64], f32[B], f32[B], f32[B, 48, 8, 8]) {
  %w = const @w#seed=1 : f32[64, 96]
  %g = const @g#seed=1 : f32[48]
  %h = linear %x, %w : f32[B, 64]
  %s = silu %h : f32[B, 64]
  %o = mul %s, %y : f32[B, 64]
  %e = gelu %x : f32[B, 96]
  %m = mean %e {axes=[1]} : f32[B]
  %t = tanh %x : f32[B, 96]
  %v = var %t {axes=[1]} : f32[B]
  %f = contiguous %i : f32[B, 48, 8, 8]
  %a = sigmoid %f : f32[B, 48, 8, 8]
  return %o, %m, %v, %a
}"""


def _for_line(lines: list[str], body: int) -> int:
    """The line, counted from 1, of the loop around a body."""
    return next(at + 1 for at in range(body, body - 4, -1) if re.search(r"\bfor \(", lines[at]))


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
@pytest.mark.parametrize("driver", LOOPS)
def test_loops_of_drivers_vectorize(driver: str, isa: str) -> None:
    found = vectorized(f"{driver}_driver", isa)
    for header, bodies in LOOPS[driver].items():
        lines = (KERNELS / header).read_text().splitlines()
        for body in bodies:
            at = [i for i, line in enumerate(lines) if body in line and not line.startswith("//")]
            assert at, f"{header} has no {body}"
            for i in at:
                assert (header, _for_line(lines, i)) in found, f"{header}:{i + 1} {lines[i].strip()} on {isa}"


@needs_compiler
@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_generated_loops_vectorize(isa: str, tmp_path: Path) -> None:
    """The epilogue of a product, the chain before a reduction, element-wise nodes."""
    from mcomp.backends.cpu.backend import lower_graph
    from mcomp.backends.cpu.emit import Emitter

    graph = graph_of(GENERATED)
    PassManager("fuse").run(graph, Context(target="cpu"))
    emitter = Emitter()
    emitter.add(lower_graph(graph, None))
    text = emitter.source().text
    source = tmp_path / "generated.cpp"
    source.write_text(text)
    lines = text.splitlines()
    found = vectorized_source(source, isa)
    loops = [i + 2 for i, line in enumerate(lines) if line.strip() == "MCOMP_INDEPENDENT"]
    assert len(loops) >= 2
    for line in loops:
        assert ("generated.cpp", line) in found, f"{lines[line - 1].strip()} on {isa}"
    chains = {"reduce.hpp": "lanes[j] = op.step(lanes[j], f(i + j));", "reduce_blocks.hpp": "held[i] = f(first"}
    for header, body in chains.items():
        at = next(i for i, line in enumerate((KERNELS / header).read_text().splitlines()) if body in line)
        assert (header, at + 1) in found, f"{header}: {body} on {isa}"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instructions of x86-64")
@pytest.mark.parametrize("driver", PACKED)
def test_portable_builds_have_packed_instructions(driver: str) -> None:
    text = assembly(f"{driver}_driver", "portable")
    for instruction in PACKED[driver]:
        assert re.search(rf"^\s+{instruction}\s", text, re.MULTILINE), instruction
