"""Encoded tensors: torch decodes as numpy does; quantize; the way between numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcomp.errors import IRError
from mcomp.ir import NM, Affine, BlockSparse, Encoding, Scaled, TensorType, WeightStore, dtypes
from mcomp.ir.encoding import quantize_array
from mcomp.ops import op_named
from mcomp.ops.base import normalize
from mcomp.ops.encoded import Encoded, array_of, quantize_tensor, scale_tensor, tensor_of, to_torch_tensor, weight_tensor

_RNG = np.random.default_rng(3)


def _parts(type: TensorType, encoding: Encoding, dense: np.ndarray) -> dict[str, np.ndarray]:
    """Parts of an encoding, made from a dense array whose pattern fits."""
    if isinstance(encoding, Affine):
        zeros = None
        if encoding.zero_point:
            zeros = _RNG.integers(-3, 4, encoding.scale_shape(dense.shape)).astype(np.int32)
        return quantize_array(dense, encoding, zeros=zeros)
    if isinstance(encoding, Scaled):
        return {name: array_of(part) for name, part in scale_tensor(torch.from_numpy(dense), encoding).parts.items()}
    if isinstance(encoding, NM):
        groups = dense.reshape(*dense.shape[:-1], -1, encoding.m)
        order = np.sort(np.argsort(-np.abs(groups), axis=-1)[..., : encoding.n], axis=-1)
        kept = np.take_along_axis(groups, order, axis=-1).reshape(*dense.shape[:-1], -1)
        inner = {"values": kept.astype(type.dtype.numpy)}
        if isinstance(encoding.inner, Affine):
            inner = quantize_array(kept, encoding.inner)
        return {**inner, "indices": order.reshape(kept.shape).astype(np.uint8)}
    assert isinstance(encoding, BlockSparse)
    rows, columns = (n // b for n, b in zip(dense.shape, encoding.block))
    matrix, extra = dense, {}
    if isinstance(encoding.inner, Affine):
        extra = quantize_array(dense, encoding.inner)
        matrix = extra.pop("values")
    tiles = matrix.reshape(rows, encoding.block[0], columns, encoding.block[1]).transpose(0, 2, 1, 3)
    chosen = np.sort(_RNG.permutation(rows * columns)[: encoding.count])
    starts = np.searchsorted(chosen // columns, np.arange(rows + 1)).astype(np.int32)
    return {"values": tiles[chosen // columns, chosen % columns].copy(), "rows": starts,
            "columns": (chosen % columns).astype(np.int32), **extra}


_ENCODINGS = [
    Affine(), Affine(axis=(0,)), Affine(axis=(0, 1)), Affine(dtypes.u8, axis=(0,), zero_point=True),
    Affine(dtypes.i4, group=4), Affine(dtypes.i4, axis=(0,), group=8),
    Affine(dtypes.u4, axis=(0,), group=4, zero_point=True),
    Scaled(), Scaled(axis=(0,)), Scaled(dtypes.f8e5m2, axis=(1,)), Scaled(scale=0.01),
    Affine(scale=0.037), Affine(dtypes.u8, scale=0.05, zero=121),
    NM(), NM(1, 4), NM(2, 4, Affine(axis=(0,))), NM(2, 4, Affine(dtypes.i4, group=4)),
    BlockSparse((4, 4), 5), BlockSparse((2, 8), 3), BlockSparse((4, 4), 6, Affine(axis=(0,))), BlockSparse((4, 4), 0),
]


@pytest.mark.parametrize("encoding", _ENCODINGS, ids=str)
@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.f64], ids=str)
def test_torch_decodes_as_numpy_does(encoding: Encoding, dtype: dtypes.DType) -> None:
    type = TensorType((12, 16), dtype, encoding)
    assert encoding.feasible(type) is None
    weight = WeightStore().add(type, _parts(type, encoding, _RNG.standard_normal((12, 16)).astype(dtype.numpy)))
    found = weight_tensor(weight)
    assert isinstance(found, Encoded)
    assert found.shape == (12, 16)
    decoded = found.decode()
    assert decoded.dtype == dtypes.to_torch(dtype)
    np.testing.assert_array_equal(decoded.numpy(), weight.decode())
    assert torch.equal(to_torch_tensor(weight), decoded)


def test_blocks_of_a_pointwise_kernel_are_those_of_its_matrix() -> None:
    matrix, kernel = (TensorType((12, 16, *rest), dtypes.f32, BlockSparse((4, 4), 5)) for rest in ((), (1, 1)))
    assert kernel.encoding.feasible(kernel) is None
    parts = _parts(matrix, matrix.encoding, _RNG.standard_normal((12, 16)).astype(np.float32))
    store = WeightStore()
    expected, weight = store.add(matrix, parts).decode(), store.add(kernel, parts)
    np.testing.assert_array_equal(weight.decode(), expected[..., None, None])
    np.testing.assert_array_equal(to_torch_tensor(weight).numpy(), expected[..., None, None])


def test_bf16_results_are_rounded_from_f32() -> None:
    type = TensorType((3, 8), dtypes.bf16, Affine(axis=(0,)))
    weight = WeightStore().add(type, quantize_array(_RNG.standard_normal((3, 8)), type.encoding))
    assert torch.equal(to_torch_tensor(weight), torch.from_numpy(weight.decode()).bfloat16())


@pytest.mark.parametrize("name", sorted(dtypes.DTYPES))
def test_arrays_of_every_element_type_come_and_go_without_copies(name: str) -> None:
    dtype = dtypes.DTYPES[name]
    bits = _RNG.integers(0, 2, (3, 4)) if name == "bool" else _RNG.integers(0, 100, (3, 4))
    array = bits.astype(dtype.numpy)
    array.flags.writeable = False
    tensor = tensor_of(array, dtype)
    assert tensor.dtype == dtypes.to_torch(dtype)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]
    np.testing.assert_array_equal(array_of(tensor), array)


def test_a_tensor_keeps_the_array_it_shares_alive() -> None:
    array = np.arange(100000, dtype=np.float32)
    array.flags.writeable = False
    tensor = tensor_of(array, dtypes.f32)
    del array
    assert torch.equal(tensor, torch.arange(100000, dtype=torch.float32))


def test_reversed_and_foreign_arrays_are_copied() -> None:
    array = np.arange(6, dtype=np.float32)[::-1]
    assert tensor_of(array, dtypes.f32).tolist() == [5, 4, 3, 2, 1, 0]
    assert tensor_of(np.arange(3, dtype=">i4"), dtypes.i32).tolist() == [0, 1, 2]
    assert tensor_of(np.float32(2.5).reshape(()), dtypes.f32).item() == 2.5


# quantize

def _quantize(x: torch.Tensor, **attrs: object) -> Encoded:
    op = op_named("quantize")
    full = normalize(op, attrs)
    (type,) = op.infer([TensorType(tuple(x.shape), dtypes.from_torch(x.dtype))], full)
    found = op.reference([x], full)
    assert found.type == type
    return found


def test_static_quantization_is_that_of_numpy() -> None:
    x = torch.from_numpy(_RNG.standard_normal((5, 7)).astype(np.float32) * 4)
    found = _quantize(x, dtype=dtypes.u8, scale=0.03, zero=100)
    expected = quantize_array(x.numpy(), Affine(dtypes.u8, scale=0.03, zero=100))
    np.testing.assert_array_equal(found.parts["values"].numpy(), expected["values"])
    assert found.parts["values"].dtype == torch.uint8
    assert (found.parts["values"] == 0).any() and (found.parts["values"] == 255).any()


def test_every_token_gets_a_scale() -> None:
    x = torch.tensor([[[1.0, -2.0], [0.0, 0.0]], [[127.0, 1.0], [-0.5, 0.25]]])
    found = _quantize(x)
    assert found.type.encoding == Affine(axis=(0, 1))
    assert found.parts["scales"].shape == (2, 2, 1)
    torch.testing.assert_close(found.parts["scales"].flatten(), torch.tensor([2 / 127, 1.0, 1.0, 0.5 / 127]))
    assert found.parts["values"].flatten().tolist() == [64, -127, 0, 0, 127, 1, -127, 64]
    np.testing.assert_array_equal(
        found.parts["values"].numpy(), quantize_array(x.numpy(), Affine(axis=(0, 1)))["values"]
    )


def test_zero_points_span_the_range_with_zero_in_it() -> None:
    x = torch.tensor([[0.0, 5.1, 2.0], [-1.0, 1.55, 0.0], [-3.0, -2.0, -1.0]])
    found = _quantize(x, dtype=dtypes.u8, zero_point=True)
    torch.testing.assert_close(found.parts["scales"].flatten(), torch.tensor([5.1 / 255, 2.55 / 255, 3.0 / 255]))
    assert found.parts["zeros"].flatten().tolist() == [0, 100, 255]
    assert found.parts["zeros"].dtype == torch.int32
    torch.testing.assert_close(found.decode(), x, atol=0.011, rtol=0)


@pytest.mark.parametrize("bits", [dtypes.i8, dtypes.u8, dtypes.i4, dtypes.u4], ids=str)
def test_the_error_is_at_most_half_a_step(bits: dtypes.DType) -> None:
    x = torch.from_numpy(_RNG.standard_normal((6, 50)).astype(np.float32))
    found = _quantize(x, dtype=bits, zero_point=True)
    assert ((found.decode() - x).abs() <= found.parts["scales"] * 0.501).all()


def test_a_row_with_nan_decodes_to_nan() -> None:
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    decoded = _quantize(x).decode()
    assert decoded[0].isnan().all()
    assert not decoded[1].isnan().any()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), ()], ids=str)
def test_empty_tensors_and_scalars(shape: tuple[int, ...]) -> None:
    assert _quantize(torch.ones(shape)).decode().shape == shape


def test_gradients_pass_straight_through() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    quantize_tensor(x, Affine(axis=(0,))).decode().square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * quantize_tensor(x.detach(), Affine(axis=(0,))).decode())


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"scale": 0.0}, "not a positive number"), ({"scale": float("inf")}, "not a positive number"),
        ({"scale": 1.0, "zero_point": True}, "zero_point"), ({"zero": 3}, "zero goes with scale"),
        ({"scale": 1.0, "zero": 300}, "300"), ({"dtype": dtypes.f32}, "not one of"), ({"axis": (5,)}, "outside"),
    ],
)
def test_wrong_attributes(attrs: dict[str, object], words: str) -> None:
    op = op_named("quantize")
    with pytest.raises(IRError, match=words):
        op.infer([TensorType((2, 3), dtypes.f32)], normalize(op, attrs))


def test_integers_are_not_quantized_nor_twice() -> None:
    op = op_named("quantize")
    with pytest.raises(IRError, match="not a floating-point type"):
        op.infer([TensorType((2, 3), dtypes.i32)], normalize(op, {}))
    with pytest.raises(IRError, match="already"):
        op.infer([TensorType((2, 3), dtypes.f32, Affine())], normalize(op, {}))
