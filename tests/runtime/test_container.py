"""The container's header: what safetensors wrote is read the same, and what does not fit is refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mcomp.errors import ArtifactError
from mcomp.runtime.container import Container, pack_integers

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.int64), "c": np.array(3, np.uint8),
    "d": np.array([True, False]), "e": np.arange(5, dtype=np.float16),
}


def file_of(path: Path, table: object, data: bytes) -> Path:
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, end: int, shape: object = None, dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def test_arrays_come_back(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "x", {"key": "value"})
    opened = Container(tmp_path / "x")
    assert opened.metadata == {"key": "value"} and opened.places.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        found = opened.array(name)
        assert found.dtype == array.dtype and not found.flags.writeable
        np.testing.assert_array_equal(found, array)
    opened.forget_pages()
    np.testing.assert_array_equal(opened.array("a"), ARRAYS["a"])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", [(4, 6), (5, 3), (1,), (0, 4), ()])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_integers_of_few_bits_come_back(
    tmp_path: Path, dtype: type, shape: tuple[int, ...], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = (-(1 << bits >> 1), 1 << bits >> 1) if dtype is np.int8 else (0, 1 << bits)
    values = np.random.default_rng(0).integers(low, high, shape).astype(dtype)
    packed = pack_integers(values, bits)
    assert packed is not None and packed.nbytes == -(-values.size * bits // 8)
    text = json.dumps({"a": [list(shape), bits, dtype is np.int8]})
    save_file({"a": packed, "b": np.ones(3)}, tmp_path / "x", {"packed": text})
    found = Container(tmp_path / "x").array("a")
    assert found.dtype == values.dtype and found.shape == values.shape and not found.flags.writeable
    np.testing.assert_array_equal(found, values)
    monkeypatch.setattr("mcomp.runtime.container._PIECE", 6)
    ours, theirs = hashlib.sha256(), hashlib.sha256(f"|v:{values.dtype.str}:{shape}|".encode() + values.tobytes())
    Container(tmp_path / "x").hash_array(ours, "a", "v")
    assert ours.digest() == theirs.digest()


def test_larger_integers_are_not_packed() -> None:
    assert pack_integers(np.array([8], np.int8), 4) is None and pack_integers(np.array([16], np.uint8), 4) is None


@pytest.mark.parametrize("packed", [
    "[]", "{", "1", '{"a": [[16], 4, true, 1]}',
    '{"a": [[16], 4, 1]}', '{"a": [[16.0], 4, true]}', '{"a": [[16], 4.0, true]}',
    '{"a": [[-8, -2], 4, true]}', '{"a": [[14], 4, true]}', '{"a": [[17], 4, true]}', '{"a": [[8], 8, true]}',
    '{"a": [[0, 1180591620717411303424], 4, true]}', '{"a": [[64], 1, true]}',
    '{"b": [[16], 4, true]}', '{"c": [[16], 4, true]}',
])
def test_lists_of_packed_arrays_that_do_not_fit_are_refused(tmp_path: Path, packed: str) -> None:
    save_file({"a": np.zeros(8, np.uint8), "c": np.zeros(8, np.int8)}, tmp_path / "x", {"packed": packed})
    with pytest.raises(ArtifactError, match="damaged or no mcomp file"):
        Container(tmp_path / "x")


@pytest.mark.parametrize("table", [
    {"a": entry(0, 8), "b": entry(4, 8)},
    {"a": entry(0, 4), "b": entry(5, 8)},
    {"a": entry(0, 7)},
    {"a": entry(0, 9)},
    {"a": entry(0, 8, [4])},
    {"a": entry(0, 8, [-1, -8])},
    {"a": entry(0, 8, [2.0, 4])},
    {"a": entry(0, 8, [True, 8])},
    {"a": entry(0, 8, [1] * 40)},
    {"a": entry(8, 0, [8])},
    {"a": entry(-8, 0)},
    {"a": entry(0, 8, dtype="F8")},
    {"a": entry(0, 8, dtype=["U8"])},
    {"a": {"dtype": "U8", "shape": [8]}},
    {"a": [0, 8]},
    {"a": entry(0, 8), "__metadata__": {"x": 1}},
    {"a": entry(0, 8), "__metadata__": "x"},
    {"a": entry(0, 2**70, [2**70])},
    {"a": entry(0, 0, [0, 2**70]), "b": entry(0, 8)},
    {"a": entry(0, 0, [0, 2**32, 2**32]), "b": entry(0, 8)},
    [1, 2], "text", None,
])
def test_headers_that_do_not_fit_are_refused(tmp_path: Path, table: object) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        Container(file_of(tmp_path / "x", table, bytes(8)))


@pytest.mark.parametrize("content", [
    b"", b"1234", (2**63).to_bytes(8, "little") + b"{}", (3).to_bytes(8, "little") + b"{}",
    (2).to_bytes(8, "little") + b"\xff\xff",
    (200_000).to_bytes(8, "little") + b"[" * 200_000,
])
def test_files_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        Container(tmp_path / "x")
