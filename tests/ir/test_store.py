"""The weight store, element types, and encodings of constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.ir import NM, Affine, BlockSparse, TensorType, WeightStore, dtypes
from mcomp.ir.encoding import quantize_array

_RNG = np.random.default_rng(7)


def _add(store: WeightStore, data: np.ndarray) -> str:
    return store.add(TensorType(data.shape, dtypes.from_numpy(data.dtype)), data).digest


def test_equal_weights_are_one() -> None:
    store = WeightStore()
    data = _RNG.standard_normal((3, 4)).astype(np.float32)
    assert _add(store, data) == _add(store, np.asfortranarray(data.copy()))
    assert len(store) == 1
    assert _add(store, data) != _add(store, data.reshape(4, 3))
    assert _add(store, np.zeros(2, np.int32)) != _add(store, np.zeros(2, np.float32))
    assert store.get(_add(store, data)[:12]).decode().tolist() == data.tolist()


def test_a_store_on_top_of_another_one() -> None:
    below = WeightStore()
    known = _add(below, np.ones(3, np.float32))
    store = WeightStore(below)
    assert _add(store, np.ones(3, np.float32)) == known and len(store) == 1
    own = _add(store, np.zeros(3, np.float32))
    assert own in store and own not in below and known in store
    assert store.get(known) is below.get(known) and store.get(own[:20]).digest == own
    assert [w.digest for w in store] == [known, own] and len(store) == 2 and len(below) == 1
    assert below.keep(store.get(own)).digest == own and own in below
    assert len(store) == 2 and store.get(own[:20]).digest == own and store.root is below.root is below


def test_a_weight_never_changes() -> None:
    store = WeightStore()
    mine = np.ones(3, np.float32)
    view = mine[:]
    view.flags.writeable = False
    kept = [store.get(_add(store, mine)), store.get(_add(store, view))]
    mine[:] = 7
    for weight in kept:
        assert weight.parts["values"].tolist() == [1, 1, 1]
        with pytest.raises(ValueError, match="read-only"):
            weight.parts["values"][0] = 2


def test_a_weight_nobody_else_can_write_to_is_not_copied() -> None:
    data = np.ones(3, np.float32)
    data.flags.writeable = False
    assert WeightStore().add(TensorType((3,), dtypes.f32), data).parts["values"] is data


def test_unknown_and_ambiguous_digests() -> None:
    store = WeightStore()
    for i in range(40):
        _add(store, np.full(1, i, np.int64))
    with pytest.raises(KeyError, match="no weight"):
        store.get("xyz")
    with pytest.raises(KeyError, match="more than one"):
        store.get("")


def test_wrong_parts_are_refused() -> None:
    store = WeightStore()
    type = TensorType((2, 4), dtypes.f32)
    with pytest.raises(ValueError, match=r"part values of f32\[2, 4\] is float32\[4, 2\]"):
        store.add(type, np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="is float64"):
        store.add(type, np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"is stored in \['scales', 'values'\]"):
        store.add(type.with_encoding(Affine()), np.zeros((2, 4), np.int8))


def test_lazy_weights_are_read_when_asked_for() -> None:
    store = WeightStore()
    asked = []

    def load() -> dict[str, np.ndarray]:
        asked.append(1)
        return {"values": np.ones(2, np.float32)}

    weight = store.add_lazy(TensorType((2,), dtypes.f32), "d" * 32, load)
    assert weight.nbytes == 8 and not asked
    assert weight.decode().tolist() == [1, 1] and asked


@pytest.mark.parametrize("dtype", dtypes.DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 2)], ids=str)
def test_every_element_type_can_be_kept(dtype: dtypes.DType, shape: tuple[int, ...]) -> None:
    data = np.ones(shape, dtype.numpy)
    weight = WeightStore().add(TensorType(shape, dtype), data)
    assert weight.decode().shape == shape
    assert weight.nbytes == -(-dtype.bits * data.size // 8)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), max_size=8))
def test_bf16_rounds_to_nearest_even(numbers: list[float]) -> None:
    values = np.asarray(numbers, np.float32)
    back = dtypes.bf16_to_f32(dtypes.f32_to_bf16(values))
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize("name", ["f8e4m3", "f8e5m2"])
def test_every_fp8_number_decodes_as_torch_does(name: str) -> None:
    torch = pytest.importorskip("torch")
    dtype = dtypes.DTYPES[name]
    bits = np.arange(256, dtype=np.uint8)
    decoded = WeightStore().add(TensorType((256,), dtype), bits).decode()
    expected = torch.from_numpy(bits).view(dtypes.to_torch(dtype)).float().numpy()
    np.testing.assert_array_equal(decoded, expected)


_AFFINE = [
    Affine(), Affine(axis=(0,)), Affine(axis=(0, 1)), Affine(dtypes.u8, axis=(0,), zero=128), Affine(dtypes.i4, axis=(0,)),
    Affine(dtypes.i4, axis=(0,), group=4), Affine(group=8), Affine(dtypes.u4, zero=8), Affine(scale=0.05),
]


@pytest.mark.parametrize("encoding", _AFFINE, ids=str)
def test_quantized_numbers_are_within_half_a_step(encoding: Affine) -> None:
    data = _RNG.uniform(-1, 1, (6, 16)).astype(np.float32)
    type = TensorType(data.shape, dtypes.f32, encoding)
    assert encoding.feasible(type) is None
    parts = quantize_array(data, encoding)
    weight = WeightStore().add(type, parts)
    scales = parts.get("scales", np.float32(encoding.scale or 0))
    step = np.repeat(scales, encoding.group, axis=-1) if encoding.group else scales
    low, high = encoding.range
    reachable = np.clip(data, (low - encoding.zero) * step, (high - encoding.zero) * step)
    assert np.all(np.abs(weight.decode() - reachable) <= step * 0.5001)
    assert weight.nbytes == sum(
        -(-encoding.dtype.bits * a.size // 8) if n == "values" else a.nbytes for n, a in parts.items()
    )


def test_zeros_and_tiny_numbers_quantize_to_finite_numbers() -> None:
    for magnitude in (0.0, 1e-44, 1e-38):
        parts = quantize_array(np.full((2, 4), magnitude, np.float32), Affine(axis=(0,)))
        assert np.all(np.isfinite(parts["scales"])) and np.all(parts["scales"] > 0)


def test_two_of_four() -> None:
    type = TensorType((2, 8), dtypes.f32, NM(2, 4))
    values = np.asarray([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    indices = np.asarray([[0, 3, 1, 2], [2, 3, 0, 1]], np.uint8)
    decoded = WeightStore().add(type, {"values": values, "indices": indices}).decode()
    assert decoded.tolist() == [[1, 0, 0, 2, 0, 3, 4, 0], [0, 0, 5, 6, 7, 8, 0, 0]]


def test_blocks() -> None:
    type = TensorType((4, 6), dtypes.f32, BlockSparse((2, 3), 2))
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    parts = {"values": values, "columns": np.asarray([1, 0], np.int32), "rows": np.asarray([0, 1, 2], np.int32)}
    expected = np.zeros((4, 6))
    expected[:2, 3:], expected[2:, :3] = values[0], values[1]
    np.testing.assert_array_equal(WeightStore().add(type, parts).decode(), expected)


@pytest.mark.parametrize(
    ("type", "reason"),
    [
        (TensorType((2, 6), dtypes.f32, Affine(group=4)), "group 4 does not divide 6"),
        (TensorType((2, 6), dtypes.f32, Affine(group=0)), "holds nothing"),
        (TensorType((2, 6), dtypes.f32, Affine(axis=(2,))), "outside of a tensor of rank 2"),
        (TensorType((2, 6), dtypes.i64, Affine()), "not a floating-point type"),
        (TensorType((2, 6), dtypes.f32, Affine(dtypes.i32)), "i32 is not one of"),
        (TensorType((2, 6), dtypes.f32, NM(2, 4)), "4 does not divide"),
        (TensorType((2, 8), dtypes.f32, NM(0, 0)), "cannot be kept"),
        (TensorType((2, 8), dtypes.f32, NM(2, 4, NM(2, 4))), "the stored values cannot be"),
        (TensorType((2, 6), dtypes.f32, BlockSparse((4, 4), 1)), "do not tile"),
        (TensorType((2, 6), dtypes.f32, BlockSparse((0, 4), 1)), "are no blocks"),
        (TensorType((6,), dtypes.f32, BlockSparse((1, 1), 1)), "needs a matrix"),
        (TensorType((4, 6, 3, 3), dtypes.f32, BlockSparse((1, 1), 1)), "needs a matrix"),
    ],
    ids=lambda p: p if isinstance(p, str) else None,
)
def test_infeasible_encodings_say_why(type: TensorType, reason: str) -> None:
    found = type.encoding.feasible(type)
    assert found is not None and reason in found
