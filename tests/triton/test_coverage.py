"""What kernels cover: a lowering that is no longer registered would let everything run in torch, in silence."""

from __future__ import annotations

import subprocess
import sys

from mcomp.backend import backend_named, lowered_ops
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.program import TorchStep
from mcomp.ops.base import all_ops
from tests.ops.cases import ALL_CASES
from tests.ops.suite import graph_of

WITHOUT = {
    "assert_", "bernoulli", "bilinear", "col2im", "complex", "cond", "conj", "const", "cummax", "cummin", "cumprod",
    "cumsum",
    "diag_embed", "digamma", "erfc", "erfinv", "eye", "fft", "grid_sample", "grouped_matmul", "gru", "im2col", "imag",
    "index_put", "irfft", "item", "lgamma", "logcumsumexp", "lstm", "masked_scatter", "max_pool_with_index",
    "median_with_index", "multinomial", "nextafter", "nonzero", "rand", "randint", "randn", "real", "resize", "return",
    "rfft",
    "rnn", "scatter", "searchsorted", "sort", "topk", "view_as_complex", "view_as_real",
}
"""Operators that torch runs, or that are no work."""
IN_PART = {
    "abs", "adaptive_avg_pool", "adaptive_max_pool", "add", "angle", "cast", "div", "eq", "exp", "full", "linear", "matmul",
    "mul",
    "neg", "norm", "pow", "round", "sum", "tanh", "where",
}
"""Operators of which some element types or attributes are left to torch: f64 products, complex numbers, rarer norms."""


def test_all_other_operators_have_lowerings() -> None:
    backend_named("cuda")
    assert sorted(set(all_ops()) ^ lowered_ops("cuda") ^ WITHOUT) == []


def test_cases_run_in_kernels() -> None:
    """Every case of the suite whose operator has a lowering is lowered, but for those listed."""
    left = set()
    for case in ALL_CASES:
        program = lower_graph(graph_of(case), None)
        if any(isinstance(step, TorchStep) for step in program.steps):
            left.add(case.op)
    assert sorted(left - WITHOUT - IN_PART) == []


def test_every_file_of_lowerings_is_imported_with_the_backend() -> None:
    code = (
        "import sys; from pathlib import Path; from mcomp.backend import backend_named\n"
        "backend_named('cuda')\n"
        "import mcomp.backends.triton.lower as lower\n"
        "files = {p.stem for p in Path(lower.__path__[0]).glob('*.py') if '@lowers(' in p.read_text()}\n"
        "print(len(files) > 8, sorted(f for f in files if f'mcomp.backends.triton.lower.{f}' not in sys.modules))\n"
        "print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\nFalse\n"
