"""Attention and rounding as training computes them, beside what the operators mean."""

import pytest
import torch

from mcomp.ir import Affine, dtypes, parse_graph
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.training import attention
from mcomp.passes.compress.training.rounding import round_weight
from mcomp.passes.compress.training.view import TrainableGraph


def attending(attrs: str = "", mask: str = "", heads: int = 4, dtype: str = "f32") -> TrainableGraph:
    given, operand = (f", %m: {mask}", ", %m") if mask else ("", "")
    return TrainableGraph(parse_graph(f"""
graph @attending[B in 1.., L in 1.., S in 1..](
  %q: {dtype}[B, 4, L, 6], %k: {dtype}[B, {heads}, S, 6], %v: {dtype}[B, {heads}, S, 5]{given}
) -> ({dtype}[B, 4, L, 5]) {{
  %y = attention %q, %k, %v{operand}{attrs} : {dtype}[B, 4, L, 5]
  return %y
}}
"""))


def operands(queries: int, keys: int, heads: int = 4, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(queries)
    shapes = [(2, 4, queries, 6), (2, heads, keys, 6), (2, heads, keys, 5)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def agrees(view: TrainableGraph, given: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and gradients are those of the operator's own formula, and came from products one by one."""
    expected, = run_graph(view.graph, given)
    wanted = [x for x in given if x.requires_grad]
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7), dtype=expected.dtype)
    gradients = torch.autograd.grad(expected, wanted, direction)
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
        found, = view(given)
        ours = torch.autograd.grad(found, wanted, direction)
    tolerance = 1e-12 if expected.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(ours, gradients):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 7), (3, 9)])
@pytest.mark.parametrize("attrs", ["", " {scale=0.3}", " {causal=true}"])
def test_attention_and_its_gradients(queries: int, keys: int, attrs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agrees(attending(attrs), operands(queries, keys), monkeypatch)


def test_shared_key_heads_and_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    view = attending(" {grouped=true}", heads=2, dtype="f64")
    agrees(view, operands(5, 8, heads=2, dtype=torch.float64), monkeypatch)


def test_masks_and_rows_in_which_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    kept[0, 0, 2] = False
    given = operands(6, 6)
    view = attending(mask="bool[B, 1, L, S]")
    with torch.no_grad():
        assert torch.equal(view([*given, kept])[0][0, :, 2], torch.zeros(4, 5))
    agrees(view, [*given, kept], monkeypatch)
    added = torch.zeros(2, 1, 6, 6).masked_fill(~kept, -torch.inf)
    added[0, 0, 2] = 0.5
    agrees(attending(" {causal=true}", mask="f32[B, 1, L, S]"), [*given, added], monkeypatch)


@pytest.mark.parametrize("limit", ["_SCORES", "_LENGTH"])
def test_scores_that_take_too_much_memory_are_not_kept(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, limit, 2)
    monkeypatch.setattr(attention, "_attend", None)
    given = operands(7, 7)
    torch.testing.assert_close(attending()(given)[0], run_graph(attending().graph, given)[0])


@pytest.mark.parametrize("encoding", [
    Affine(dtypes.i8, axis=(0,)), Affine(dtypes.u4, axis=(0,), group=4), Affine(dtypes.i8, scale=0.05),
    Affine(dtypes.u8, scale=0.05, zero=7),
], ids=str)
def test_rounding_is_torchs_own(encoding: Affine) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 8, generator=generator).requires_grad_()
    low, high = encoding.range
    if encoding.scale is not None:
        scales = torch.tensor(encoding.scale)
        expected = torch.fake_quantize_per_tensor_affine(x, encoding.scale, encoding.zero, low, high)
    else:
        rows = x if encoding.group is None else x.reshape(12, 4)
        scales = torch.rand(len(rows), generator=generator) / 20 + 1e-3
        zeros = torch.zeros(len(rows), dtype=torch.int32)
        expected = torch.fake_quantize_per_channel_affine(rows, scales, zeros, 0, low, high).reshape(6, 8)
        scales = scales.reshape(6, -1)
    found = round_weight(x, scales, float(encoding.zero), encoding)
    torch.testing.assert_close(found, expected)
    direction = torch.randn(6, 8, generator=generator)
    ours, theirs = torch.autograd.grad(found, x, direction), torch.autograd.grad(expected, x, direction)
    assert torch.equal(ours[0], theirs[0])
