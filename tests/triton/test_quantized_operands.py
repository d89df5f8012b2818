"""Products whose operands are bytes: where the backend says that it multiplies floats, it does decode them."""

from __future__ import annotations

import pytest

from mcomp.backend import backend_named
from mcomp.ir import dtypes
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, check, made, needs_triton

pytestmark = needs_triton
I8 = Affine(dtypes.i8, axis=(0,))


def _operands(m: Made, *shapes: tuple[object, ...]) -> list[Value]:
    return [m.op("quantize", m.input(shape), scale=0.03) for shape in shapes]  # type: ignore[arg-type]


MADE = {
    "attention": lambda m: [m.op("attention", *_operands(m, *[(B, 2, 5, 8)] * 3))],
    "matmul": lambda m: [m.op("matmul", *_operands(m, (B, 5, 8), (B, 8, 7)))],
    "linear": lambda m: [m.op("linear", *_operands(m, (B, 5, 16)), m.const((7, 16), encoding=I8))],
    "conv": lambda m: [m.op("conv", *_operands(m, (B, 4, 6, 6)), m.const((5, 4, 3, 3), encoding=I8), stride=(1, 1),
                            padding=((0, 0), (0, 0)), dilation=(1, 1))],
}


@pytest.mark.parametrize("op", MADE)
def test_what_the_backend_says_of_bytes(op: str) -> None:
    executable = check(made(MADE[op]), tolerance=5e-3)
    decoded = any(step.name.startswith("decode") for step in executable.steps({"B": 3}))
    assert decoded != backend_named("cuda").multiplies_bytes(op)
