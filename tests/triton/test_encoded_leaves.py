"""What is held as bytes and added later is decoded in the kernel that adds it."""

from __future__ import annotations

import pytest

from mcomp.backend import Executable
from mcomp.ir import dtypes
from mcomp.ir.encoding import Affine, BlockSparse
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, check, kinds, made, needs_triton

pytestmark = needs_triton
I8 = Affine(dtypes.i8, axis=(0,))
HOW: dict[str, dict[str, object]] = {
    "u8": {"dtype": dtypes.u8, "scale": 0.05, "zero": 3}, "i8": {"scale": 0.03}, "rows": {},
    "rows with zeros": {"dtype": dtypes.u8, "zero_point": True}, "f8": {"dtype": dtypes.f8e4m3, "scale": 0.02},
}


def _decodes(executable: Executable) -> int:
    return sum(kernel.name.startswith("decode") for kernel in executable.kernels({"B": 3}))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.f16], ids=str)
def test_a_product_adds_bytes(dtype: dtypes.DType, how: str) -> None:
    def make(m: Made) -> list[Value]:
        q = m.op("quantize", m.input((B, 3, 24), dtype), **HOW[how])
        y = m.op("linear", m.input((B, 3, 40), dtype), m.const((24, 40), dtype, scale=0.2), m.const((24,), dtype))
        return [m.op("relu", m.op("add", y, m.op("decode", q)))]

    executable = check(made(make), {"B": 3})
    assert kinds(executable, B=3) == ["quantize" if how in ("rows", "rows with zeros", "f8") else "pointwise", "linear"]
    assert _decodes(executable) == 0


def test_the_middle_of_a_network_stays_bytes() -> None:
    """A residual around a layer, and around one more: nothing but products, which read and write bytes."""
    def make(m: Made) -> list[Value]:
        h = m.op("quantize", m.input((B, 40)), **HOW["u8"])
        for _ in range(2):
            inner = m.op("relu", m.op("linear", h, m.const((40, 40), encoding=I8, scale=0.2)))
            coded = m.op("quantize", inner, **HOW["u8"])
            y = m.op("linear", coded, m.const((40, 40), encoding=I8, scale=0.2))
            h = m.op("quantize", m.op("add", y, m.op("decode", h)), **HOW["u8"])
        return [m.op("linear", h, m.const((8, 40), encoding=I8))]

    executable = check(made(make), {"B": 3}, tolerance=2e-2)
    assert kinds(executable, B=3)[1:] == ["linear_i8"] * 5 and _decodes(executable) == 0


def test_convolutions_norms_and_element_wise_nodes_do_so_too() -> None:
    geometry: dict[str, object] = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}

    def make(m: Made) -> list[Value]:
        image = m.op("decode", m.op("quantize", m.input((B, 6, 5, 7)), **HOW["u8"]))
        rows = m.op("decode", m.op("quantize", m.input((B, 24)), **HOW["rows"]))
        y = m.op("add", m.op("conv", m.input((B, 4, 5, 7)), m.const((6, 4, 3, 3), scale=0.2), **geometry), image)
        z = m.op("layer_norm", m.op("add", rows, m.input((B, 24))), axes_count=1, eps=1e-5)
        g = m.op("group_norm", m.op("relu", image), groups=2, eps=1e-5)
        return [y, z, m.op("mul", m.op("exp", rows), m.input((B, 24))), g]

    executable = check(made(make), {"B": 3})
    assert _decodes(executable) == 0
    assert sorted(kinds(executable, B=3)) == [
        "conv", "group_norm", "layer_norm", "pointwise", "pointwise", "pointwise", "quantize"]


def test_bytes_move_as_bytes_to_where_they_are_added() -> None:
    def make(m: Made) -> list[Value]:
        held = m.op("decode", m.op("quantize", m.input((B, 4, 24)), **HOW["u8"]))
        part = m.op("reshape", m.op("slice", held, axis=1, start=1, stop=3), shape=(B, 2, 24))
        return [m.op("add", m.op("linear", m.input((B, 2, 40)), m.const((24, 40))), part)]

    assert _decodes(check(made(make), {"B": 3})) == 0


def test_what_kernels_read_otherwise_and_what_leaves_is_decoded_once() -> None:
    def make(m: Made) -> list[Value]:
        held = m.op("decode", m.op("quantize", m.input((B, 24)), **HOW["rows"]))
        y = m.op("linear", held, m.const((16, 24)))
        z = m.op("linear", held, m.const((16, 24), encoding=BlockSparse((4, 4), 1)))
        return [y, z, held, m.op("cumsum", held, axis=1)]

    executable = check(made(make), {"B": 3})
    assert _decodes(executable) == 1
    assert "blocksparse" in kinds(executable, B=3) and "torch:cumsum" in kinds(executable, B=3)
