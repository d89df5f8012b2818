"""The container's header: what safetensors wrote is read the same, and what does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mcomp.errors import ArtifactError
from mcomp.runtime.container import Container

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
