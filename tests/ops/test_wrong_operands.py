"""What inference says about operands and attributes that do not fit: products, windows, norms, recurrent layers."""

from __future__ import annotations

from typing import Any

import pytest

from mcomp.errors import IRError
from mcomp.ir import Graph, TensorType
from mcomp.ir.parser import parse_type
from mcomp.ops import op_named
from mcomp.ops.base import normalize

_CONV: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
_UP: dict[str, Any] = {"stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)}
_POOL: dict[str, Any] = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
_IMAGE = "f32[N, 4, 8, 8]"
_HEADS = "f32[N, 4, 6, 8]"
_LSTM = ("f32[T, N, 5]", "f32[1, N, 6]", "f32[1, N, 6]", "f32[24, 5]", "f32[24, 6]", "f32[24]", "f32[24]")

_WRONG: list[tuple[str, tuple[str | None, ...], dict[str, Any], str]] = [
    ("linear", ("f32[N, 8]", "f32[4, 9]"), {}, "x has 8 along axis 1, but the number of columns of weight is 9"),
    ("linear", ("f32[N, 8]", "f32[4, 8]", "f32[5]"), {}, "bias has 5 along axis 0, but the number of rows"),
    ("linear", ("f32[N, 8]", "f32[8]"), {}, "weight has rank 1, not 2"),
    ("linear", ("f32[N, 8]", "bf16[4, 8]"), {}, "element types differ: x f32, weight bf16"),
    ("matmul", ("f32[N, 3, 4]", "f32[N, 5, 6]"), {}, "a has 4 along axis 2, but the inner size of b is 5"),
    ("matmul", ("f32[2, 3, 4]", "f32[5, 4, 6]"), {}, "a and b do not broadcast: 2 against 5"),
    ("matmul", ("f32[]", "f32[4, 6]"), {}, "a has rank 0, not 1 or more"),
    ("grouped_matmul", ("f32[N, 4]", "f32[3, 4, 5]", "i32[2]"), {}, "offsets has 2 along axis 0"),
    ("grouped_matmul", ("f32[N, 4]", "f32[3, 4, 5]", "f32[3]"), {}, "offsets are f32, not integers"),
    ("bilinear", ("f32[N, 4]", "f32[N, 5]", "f32[3, 4, 6]"), {}, "x2 has 5 along axis 1"),
    ("conv", (_IMAGE, "f32[8, 3, 3, 3]"), _CONV, "x has 4 along axis 1, but the channels of weight .* is 3"),
    ("conv", (_IMAGE, "f32[8, 4, 9, 3]"), _CONV, "a window that spans 9 does not fit into 8 padded by 0 and 0"),
    ("conv", (_IMAGE, "f32[9, 2, 3, 3]"), {**_CONV, "groups": 2}, "2 groups do not divide 9 output channels"),
    ("conv", (_IMAGE, "f32[8, 4, 3, 3]"), {**_CONV, "stride": (1,)}, "stride has 1 entries for 2 spatial axes"),
    ("conv", (_IMAGE, "f32[8, 4, 3, 3]"), {**_CONV, "stride": (0, 1)}, "stride is 0, but must be at least 1"),
    ("conv", (_IMAGE, "f32[8, 4, 3, 3]"), {**_CONV, "padding": (1, 1)}, "padding is .*, not a .low, high. pair"),
    ("conv", (_IMAGE, "f32[8, 4, 3, 3]"), {**_CONV, "padding": ((0, -1), (0, 0))}, "pair of numbers >= 0"),
    ("conv", (_IMAGE, "f32[8, 4, 3, 3]"), {**_CONV, "groups": 0}, "groups is 0"),
    ("conv", ("f32[N, 8]", "f32[8, 4]"), _CONV, "x has rank 2, not 3 to 5"),
    ("conv_transpose", (_IMAGE, "f32[5, 4, 2, 2]"), _UP, "x has 4 along axis 1, but the input channels"),
    ("conv_transpose", (_IMAGE, "f32[4, 4, 2, 2]"), {**_UP, "output_padding": (2, 0)}, "output_padding 2 is not"),
    ("conv_transpose", ("f32[N, 4, 1, 1]", "f32[4, 4, 2, 2]"), {**_UP, "padding": (1, 1)}, "nothing is left"),
    ("attention", (_HEADS, "f32[N, 4, 9, 7]", "f32[N, 4, 9, 7]"), {}, "key has 7 along axis 3"),
    ("attention", (_HEADS, "f32[N, 4, 9, 8]", "f32[N, 4, 7, 8]"), {}, "value has 7 along axis 2"),
    ("attention", (_HEADS, "f32[N, 2, 9, 8]", "f32[N, 2, 9, 8]"), {}, "query and key do not broadcast: 4 against 2"),
    ("attention", (_HEADS, "f32[N, 3, 9, 8]", "f32[N, 3, 9, 8]"), {"grouped": True}, "4 query heads are no multiple"),
    ("attention", (_HEADS, _HEADS, _HEADS, "i64[6, 6]"), {}, "mask is i64; it must be bool or f32"),
    ("attention", (_HEADS, _HEADS, _HEADS, "bool[2, N, 4, 6, 6]"), {}, "does not broadcast to the scores"),
    ("attention", ("i64[4, 6, 8]", "i64[4, 6, 8]", "i64[4, 6, 8]"), {}, "query is i64, not f64"),
    ("rope", ("f32[N, 2, 6, 7]", "f32[6, 7]", "f32[6, 7]"), {}, "the last axis of x is 7, which is odd"),
    ("rope", (_HEADS, "f32[7, 8]", "f32[6, 8]"), {}, "cos .7, 8. does not broadcast to x"),
    ("layer_norm", ("f32[N, 8]", "f32[9]"), {"axes_count": 1, "eps": 1e-5}, "weight is .9., but the normalized"),
    ("layer_norm", ("f32[N, 8]",), {"axes_count": 3, "eps": 1e-5}, "axes_count is 3 for a tensor of rank 2"),
    ("rms_norm", ("i64[N, 8]",), {"axes_count": 1, "eps": 1e-5}, "x is i64"),
    ("group_norm", (_IMAGE,), {"groups": 3, "eps": 1e-5}, "3 groups do not divide 4 channels"),
    ("batch_norm", (_IMAGE, "f32[4]", "f32[5]"), {"eps": 1e-5}, "variance has 5 along axis 0"),
    ("batch_norm", (_IMAGE, "f32[4]", None), {"eps": 1e-5}, "`variance` is missing"),
    ("softmax", ("f32[N, 8]",), {"axis": 2}, "axis 2 is outside of a tensor of rank 2"),
    ("max_pool", (_IMAGE,), {**_POOL, "padding": ((2, 0), (0, 0))}, "more than half of a window that spans 2"),
    ("max_pool", (_IMAGE,), {**_POOL, "kernel": (9, 2)}, "a window that spans 9 does not fit"),
    ("max_pool_with_index", (_IMAGE,), {**_POOL, "padding": ((1, 0), (0, 0))}, "the same padding at both ends"),
    ("avg_pool", (_IMAGE,), {**{k: v for k, v in _POOL.items() if k != "dilation"}, "divisor": 0}, "divisor is 0"),
    ("adaptive_avg_pool", (_IMAGE,), {"size": (1,)}, "size has 1 entries for 2 spatial axes"),
    ("resize", (_IMAGE,), {"size": (4, 4), "mode": "linaer"}, "there is no mode linaer"),
    ("resize", (_IMAGE,), {"size": (4, 4), "align_corners": True}, "align_corners has no meaning for mode nearest"),
    ("resize", ("f32[N, 4, 8]",), {"size": (4,), "mode": "cubic"}, "mode cubic works on 2 spatial axes, not 1"),
    ("resize", (_IMAGE,), {"size": (4, 4), "scales": (0.0, 2.0)}, "not all positive"),
    ("resize", (_IMAGE,), {"size": (4, 4), "antialias": True}, "antialias works for"),
    ("grid_sample", (_IMAGE, "f32[N, 5, 5, 3]"), {}, "grid has 3 along axis 3, but the number of spatial axes is 2"),
    ("grid_sample", (_IMAGE, "f32[N, 5, 5, 2]"), {"padding": "wrap"}, "there is no padding wrap"),
    ("lstm", _LSTM[:-1], {"layers": 1}, "3 weights for 1 layers, 1 directions and 4 weights each"),
    ("lstm", _LSTM, {"layers": 0}, "4 weights for 0 layers"),
    ("lstm", (*_LSTM[:4], "f32[24, 7]", *_LSTM[5:]), {"layers": 1}, "h0 has 6 along axis 2"),
    ("lstm", (_LSTM[0], "f32[2, N, 6]", *_LSTM[2:]), {"layers": 1}, "h0 has 2 along axis 0"),
    ("lstm", ("f32[T, N, 4]", *_LSTM[1:]), {"layers": 1}, "weight 0 has 5 along axis 1"),
    ("lstm", ("f32[T, 5]", *_LSTM[1:]), {"layers": 1}, "x has rank 2, not 3"),
    ("rnn", ("f32[T, N, 5]", "f32[1, N, 6]", "f32[6, 5]", "f32[6, 6]"),
     {"layers": 1, "bias": False, "nonlinearity": "gelu"}, "there is no nonlinearity gelu"),
]


@pytest.mark.parametrize(("op", "operands", "attrs", "words"), _WRONG, ids=[f"{w[0]}:{w[3][:40]}" for w in _WRONG])
def test_the_error_says_what_does_not_fit(
    op: str, operands: tuple[str | None, ...], attrs: dict[str, Any], words: str
) -> None:
    types = [None if t is None else parse_type(t) for t in operands]
    found = op_named(op)
    with pytest.raises(IRError, match=words):
        found.infer([t for t in types if not isinstance(t, int)], normalize(found, attrs))


def test_sizes_stay_symbolic() -> None:
    def infer(op: str, *operands: str, **attrs: Any) -> str:
        found = op_named(op)
        return str(found.infer([parse_type(t) for t in operands], normalize(found, attrs))[0])

    padded = {**_CONV, "stride": (2, 1), "padding": ((1, 1), (1, 1))}
    assert infer("conv", "f32[N, 3, H, W]", "f32[8, 3, 3, 3]", **padded) == "f32[N, 8, ((H - 1)//2) + 1, W]"
    assert infer("conv_transpose", "f32[N, 3, H, W]", "f32[3, 8, 2, 2]", **_UP) == "f32[N, 8, 2*H, 2*W]"
    assert infer("max_pool", "f32[N, 3, 2*H, W]", **_POOL) == "f32[N, 3, H, (W)//2]"
    assert infer("matmul", "f32[N, 1, S, 8]", "f32[4, 8, T]") == "f32[N, 4, S, T]"
    assert infer("attention", *("f32[N, 4, S, 8]",) * 3) == "f32[N, 4, S, 8]"


def test_errors_of_a_node_name_its_layer() -> None:
    from mcomp.ir import Loc

    graph = Graph("g")
    x = graph.add_input("x", TensorType((2, 3), parse_type("f32[]").dtype))
    words = r"(?s)linear: .*fc1 .model.py.:12.*linear\(f32\[2, 3\], f32\[2, 3\], f32\[2, 3\]\)"
    with pytest.raises(IRError, match=words), graph.edit("t") as e:
        e.add("linear", [x, x, x], loc=Loc("fc1", "model.py", 12))


def test_costs_by_hand() -> None:
    def cost(op: str, *operands: str, **attrs: Any) -> tuple[Any, Any, Any]:
        found = op_named(op)
        types = [parse_type(t) for t in operands]
        full = normalize(found, attrs)
        c = found.cost(types, found.infer(types, full), full)
        return c.flops, c.read, c.write

    assert cost("linear", "f32[5, 8]", "f32[3, 8]", "f32[3]") == (2 * 5 * 3 * 8 + 15, 4 * (40 + 24 + 3), 4 * 15)
    assert cost("linear", "f32[5, 8]", "f32[4, 8] nm<2, 4>")[0] == 5 * 4 * 8
    assert cost("linear", "f32[5, 8]", "f32[4, 8] affine<i8, axis=0>")[1] == 160 + 32 + 16
    assert cost("linear", "f32[5, 8]", "f32[4, 8] blocksparse<2, 4, count=1>")[0] == 2 * 5 * 8
    assert cost("matmul", "f32[2, 5, 8]", "f32[8, 3]") == (2 * 2 * 5 * 8 * 3, 4 * (80 + 24), 4 * 30)
    assert cost("conv", "f32[2, 4, 8, 8]", "f32[6, 2, 3, 3]", **_CONV, groups=2)[0] == 2 * 2 * 6 * 36 * 18
    assert cost("conv_transpose", "f32[2, 4, 8, 8]", "f32[4, 6, 2, 2]", **_UP)[0] == 2 * 2 * 64 * 4 * 6 * 4
    assert cost("attention", *("f32[2, 3, 5, 8]",) * 3)[0] == 2 * 3 * 5 * 5 * (2 * (8 + 8) + 10)
    assert cost("max_pool", "f32[2, 3, 8, 8]", **_POOL)[0] == 2 * 3 * 16 * 4
