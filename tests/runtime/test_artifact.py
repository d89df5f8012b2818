"""`.mcomp` files: they come back the same, and hostile ones do no harm."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import mcomp
from mcomp.errors import ArtifactError, McompError
from mcomp.manager import Context, PassManager
from mcomp.manager.instruments.reproducer import write_weights
from mcomp.ops.evaluate import run_graph
from mcomp.runtime import artifact
from mcomp.runtime.calibration import Calibration
from tests.runtime.build import COUNTER, graph_of, model

Header = dict[str, object]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return model().save(tmp_path / "model.mcomp")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_saved_file_has_the_rights_of_a_new_one(tmp_path: Path, mask: int) -> None:
    """The library that writes tensors makes files that only their owner may read."""
    before = os.umask(mask)
    try:
        compiled = model()
        path = compiled.save(tmp_path / "model.mcomp")
        write_weights(tmp_path / "weights.safetensors", graph_of(compiled))
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (path, tmp_path / "weights.safetensors")} == {0o666 & ~mask}


def altered(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, str], Header], None]) -> Path:
    """Write the file again after `change(tensors, metadata, header)`, with hashes as a forger would make them."""
    with safe_open(path, framework="np") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()  # noqa: SIM118
 }
        metadata = dict(opened.metadata())
    header = json.loads(metadata["mcomp"])
    change(tensors, metadata, header)
    for name in header["blobs"]:
        header["blobs"][name] = hashlib.sha256(tensors[name].tobytes() if name in tensors else b"").hexdigest()
    metadata["mcomp"] = json.dumps(header)
    save_file(tensors, path, metadata)
    return path


def with_ir(path: Path, old: str, new: str) -> Path:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        text = tensors["ir"].tobytes().decode()
        assert old in text
        tensors["ir"] = np.frombuffer(text.replace(old, new).encode(), np.uint8)

    return altered(path, change)


def test_a_file_comes_back_the_same(saved: Path) -> None:
    x = torch.randn(5, 8)
    again = mcomp.load(saved)
    torch.testing.assert_close(again(x), model()(x), rtol=0, atol=0)
    assert str(again.ir) == str(model().ir)


def test_state_starts_over_after_loading(tmp_path: Path) -> None:
    fast = model(COUNTER)
    fast(torch.ones(2))
    again = mcomp.load(fast.save(tmp_path / "counter.mcomp"))
    assert float(again(torch.ones(2))[0]) == 1.0


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -200])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[:keep])
    with pytest.raises(ArtifactError, match=r"damaged|no mcomp file"):
        mcomp.load(saved)


def test_any_changed_byte_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for position in rng.integers(start, len(data), 25):
        broken = bytearray(data)
        broken[position] ^= 0x40
        saved.write_bytes(broken)
        with pytest.raises(ArtifactError):
            mcomp.load(saved)(torch.zeros(1, 8))


def test_random_headers_never_do_more_than_raise(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    length = int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(data)
        for position in rng.integers(8, 8 + length, 3):
            broken[position] = int(rng.integers(32, 127))
        saved.write_bytes(broken)
        try:
            mcomp.load(saved)
        except McompError:
            continue


NIBBLES = """
graph @g[B in 1..](%i: i64[B]) -> (f32[B, 33]) {
  %t = const @words.weight#seed=1 : f32[301, 33]  loc(words)
  %y = embedding %t, %i : f32[B, 33]  loc(words)
  return %y
}
"""


def with_nibbles(path: Path) -> tuple[Path, torch.Tensor]:
    """A file with a table of 4-bit integers, of odd sizes, and what the model gives for all of its rows."""
    fast = model(NIBBLES)
    PassManager("quantize{bits=4}").run(graph_of(fast), Context(calibration=Calibration([[torch.arange(301)]])))
    return fast.save(path), run_graph(graph_of(fast), [torch.arange(301)])[0]


def test_four_bit_weights_take_half_a_byte_each(tmp_path: Path) -> None:
    path, expected = with_nibbles(tmp_path / "model.mcomp")
    with safe_open(path, framework="np") as opened:
        sizes = sorted(opened.get_tensor(n).nbytes for n in opened.keys() if n.startswith("weights/"))  # noqa: SIM118
        assert opened.metadata()["version"] == "2"
    assert sizes == [301 * 4, (301 * 33 + 1) // 2]
    artifact.ArtifactReader(path).finish_check()
    torch.testing.assert_close(mcomp.load(path)(torch.arange(301)), expected, rtol=0, atol=0)


def test_files_without_four_bit_weights_stay_readable_by_older_versions(saved: Path) -> None:
    with safe_open(saved, framework="np") as opened:
        assert opened.metadata()["version"] == "1" and "packed" not in opened.metadata()


def test_any_changed_four_bit_weight_is_noticed(tmp_path: Path) -> None:
    """Also the half byte behind an odd one."""
    path, _ = with_nibbles(tmp_path / "model.mcomp")
    data = path.read_bytes()
    reader = artifact.ArtifactReader(path)
    name = next(iter(reader._container.packed))
    _, _, start, end = reader._container.places[name]
    for position, flip in ((start, 1), (start, 16), (end - 1, 1), (end - 1, 128)):
        broken = bytearray(data)
        broken[position] ^= flip
        path.write_bytes(broken)
        with pytest.raises(ArtifactError):
            mcomp.load(path)(torch.zeros(1, dtype=torch.long))
        with pytest.raises(ArtifactError):
            artifact.ArtifactReader(path).finish_check()


def test_a_newer_version_says_to_upgrade(saved: Path) -> None:
    altered(saved, lambda tensors, metadata, header: metadata.update(version=str(artifact.VERSION + 1)))
    with pytest.raises(ArtifactError, match="upgrade mcomp"):
        mcomp.load(saved)
    altered(saved, lambda tensors, metadata, header: metadata.update(version="one"))
    with pytest.raises(ArtifactError, match=r"no version\n.*help: get the file again"):
        mcomp.load(saved)


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors", {"format": "pt"})
    for name, content in (("text.mcomp", b"hello"), ("zip.mcomp", b"PK\x03\x04" + bytes(100))):
        (tmp_path / name).write_bytes(content)
    for path in tmp_path.iterdir():
        with pytest.raises(ArtifactError, match="help: "):
            mcomp.load(path)
    with pytest.raises(ArtifactError, match=r"no file.*\n.*help: check the path"):
        mcomp.load(tmp_path / "missing.mcomp")


def test_an_operator_that_writes_a_file_is_refused(saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "written"
    call = f'aten.from_file.default {{args = ["{target}", true, 16]}}'
    with_ir(saved, "%r = relu %h", f"%evil = {call} : f32[16]\n  %r = relu %h")
    with pytest.raises(ArtifactError, match="from_file"):
        mcomp.load(saved)
    assert not target.exists()


@pytest.mark.parametrize("call", [
    "aten.copy_.default %h, %h", "aten.set_.source_Tensor %h, %h", "prim.PythonOp.default %h", "os.system.default %h",
    "aten.resize_.default %h", "mkldnn._linear_pointwise.default %h", "profiler._record_function_enter.default %h",
])
def test_operators_off_the_list_are_refused(saved: Path, call: str) -> None:
    with_ir(saved, "%r = relu %h", f'%evil = {call} {{args = ["$0"]}} : f32[B, 16]\n  %r = relu %h')
    with pytest.raises(ArtifactError):
        mcomp.load(saved)


@pytest.mark.parametrize(("old", "new"), [
    ("f32[B, 16]  loc(act)", "f32[B, 17]  loc(act)"),
    ("relu %h", "relu %nothing"),
    ("relu %h", "linear %h"),
    ("return %y", "return %q"),
    ("graph @mlp", "graph @mlp(" * 2000),
    ("[B in 1..]", ""),
])
def test_ir_that_does_not_hold_together_is_refused(saved: Path, old: str, new: str) -> None:
    with_ir(saved, old, new)
    with pytest.raises(ArtifactError, match="IR"):
        mcomp.load(saved)


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, "{", '{"rows": [1]}', '{"rows": 1}', '{"stages": [[]]}'])
def test_a_report_that_is_none_is_refused(saved: Path, text: str) -> None:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        tensors["report"] = np.frombuffer(text.encode(), np.uint8)

    altered(saved, change)
    with pytest.raises(ArtifactError, match="its report cannot be read"):
        mcomp.load(saved)


def test_a_header_that_is_nested_too_deep_is_refused(saved: Path) -> None:
    with safe_open(saved, framework="np") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = dict(opened.metadata())
    save_file(tensors, saved, metadata | {"mcomp": "[" * 100_000})
    with pytest.raises(ArtifactError, match="its header cannot be read"):
        mcomp.load(saved)


def test_weights_of_the_wrong_size_are_refused(saved: Path) -> None:
    def shrink(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        name = next(n for n in tensors if n.startswith("weights/"))
        tensors[name] = tensors[name][:-1].copy()

    altered(saved, shrink)
    with pytest.raises(ArtifactError, match="weight"):
        mcomp.load(saved)(torch.zeros(1, 8))


def test_saving_to_a_full_disk_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(ArtifactError, match="No space left"):
        model().save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_graph_that_would_not_read_back_is_not_saved(tmp_path: Path) -> None:
    text = """graph @g[B in 1..](%x: f32[B, 4]) -> (f32[B, 2, 2]) {
  %y = reshape %x {shape = [B, 2, 2]} : f32[B, 2, 2]
  return %y
}"""
    made = model(text)
    graph = graph_of(made)
    graph.symbols["größe"] = graph.symbols["B"]
    with pytest.raises(ArtifactError, match="would not read back"):
        made.save(tmp_path / "model.mcomp")
    assert not list(tmp_path.iterdir())


def test_saving_where_one_may_not(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "such"
    with pytest.raises(ArtifactError, match=f"could not be written: there is no folder {missing}\n.*make the folder"):
        model().save(missing / "folder.mcomp")


def test_reading_a_file_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mcomp.runtime.artifact import ArtifactReader\n"
        f"graph = ArtifactReader({str(saved)!r}).graph()\n"
        "print(len(graph), [m for m in ('networkx', 'rich', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "6 []"


def test_the_hash_of_compiled_code_is_checked(saved: Path) -> None:
    reader = artifact.ArtifactReader(saved)
    for name in reader.code_names():
        reader.blob(f"code/{name}")

    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        header["blobs"]["code/avx2"] = ""  # type: ignore[index]
        tensors["code/avx2"] = np.arange(16, dtype=np.uint8)

    altered(saved, change)
    with safe_open(saved, framework="np") as opened:
        tensors = {n: opened.get_tensor(n) for n in opened.keys()  # noqa: SIM118
 }
        metadata = dict(opened.metadata())
    tensors["code/avx2"] = tensors["code/avx2"][::-1].copy()
    save_file(tensors, saved, metadata)
    with pytest.raises(ArtifactError, match="hash"):
        artifact.ArtifactReader(saved).blob("code/avx2")
