"""What the tests of the CPU backend share: graphs from text, compiled and compared with the reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.backends.cpu.isa import supported
from mcomp.ir import Graph, TensorType, WeightStore, parse_graph
from mcomp.ir.binding import bind_inputs
from mcomp.ir.encoding import Affine, quantize_array
from mcomp.ir.parser import parse_type
from mcomp.ops.evaluate import run_graph

needs_compiler = pytest.mark.skipif(BACKEND.available() is not None, reason=str(BACKEND.available()))
_SUPPORTED = {isa.name for isa in supported()}


def _on(*names: str | None) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("isa", [
        pytest.param(n, id=n or "best", marks=pytest.mark.skipif(n is not None and n not in _SUPPORTED,
                                                                 reason=f"this CPU lacks {n}"))
        for n in names
    ])


each_isa = _on(None, "avx512", "avx2", "portable")
"""Runs a test on the best instruction set of this machine (None) and on the plainer ones."""
each_float_isa = _on(None, "avx2", "portable")
"""The same without products of bytes or bfloat16, which are all that differs between AVX-512 and what came after it."""

_CODED = re.compile(r"const @(\w+)#int8 : ([^\n]*)")


def graph_of(text: str) -> Graph:
    """A graph from text. Beside what the parser generates, `const @w#int8 : <affine type>` makes quantized weights."""
    store = WeightStore()

    def coded(match: re.Match[str]) -> str:
        type = parse_type(match.group(2).split(" loc(")[0])
        assert isinstance(type, TensorType) and isinstance(type.encoding, Affine)
        rng = np.random.default_rng(sum(match.group(1).encode()))
        parts = quantize_array(rng.standard_normal(type.static_shape).astype(np.float32), type.encoding)
        return f"const @{match.group(1)}#{store.add(type, parts).digest} : {match.group(2)}"

    return parse_graph(_CODED.sub(coded, text), store, generate=True)


@cache
def _compiled(texts: tuple[str, ...], isa: str | None, threads: int) -> list[CpuExecutable]:
    found = BACKEND.compile_many([graph_of(t) for t in texts], CompileOptions(isa=isa, threads=threads))
    return [x for x in found if isinstance(x, CpuExecutable)]


def compiled(text: str, *, isa: str | None = None, threads: int = 2, among: Sequence[str] | None = None) -> CpuExecutable:
    """The executable of a graph; graphs listed in `among` are compiled together, once."""
    texts = tuple(among) if among is not None else (text,)
    return _compiled(texts, isa, threads)[texts.index(text)]


def check(executable: CpuExecutable, inputs: Sequence[Any], *, tolerance: float = 2e-6) -> list[torch.Tensor]:
    """Run and compare with the reference: relative L2 error below `tolerance` for floats, equality for others."""
    symbols = bind_inputs(executable.graph, inputs)
    found = executable.run(inputs, symbols)
    expected = run_graph(executable.graph, inputs)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"result {i}"
        if not b.is_floating_point():
            assert torch.equal(a, b), f"result {i}"
        elif b.numel():
            error = torch.linalg.vector_norm(a.double() - b.double()) / max(torch.linalg.vector_norm(b.double()), 1e-30)
            assert float(error) <= tolerance, f"result {i}: relative error {float(error):.3g}"
    return found


def kernel_names(executable: CpuExecutable, **symbols: int) -> list[str]:
    """The names of the kernels in the order they run."""
    return [k.name for k in executable.kernels(symbols)]
