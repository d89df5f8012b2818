"""Files that commands are given: strangers', damaged and odd ones; and files that commands write."""

import io
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mcomp.commands.common import emit_json
from tests.commands.conftest import Mcomp
from tests.runtime.build import model
from tests.runtime.test_artifact import Header, altered, with_ir


@pytest.mark.parametrize("argv", [
    ("compare", "FILE", "FILE"), ("bisect", "FILE", "--pipeline", "dce"), ("opt", "FILE", "--pipeline", "dce"),
])
def test_a_graph_of_a_file_runs_operators_of_the_list_only(mcomp: Mcomp, tmp_path: Path, argv: tuple[str, ...]) -> None:
    path = model().save(tmp_path / "evil.mcomp")
    call = '%evil = aten._reshape_alias.default %h {args = ["$0", [1000], [1]]} : f32[1000]'
    with_ir(path, "%r = relu %h", f"{call}\n  %r = relu %h")
    ran = mcomp(*[str(path) if a == "FILE" else a for a in argv])
    assert (ran.code, ran.out) == (3, "")
    assert "not on the allow-list" in ran.err
    assert mcomp("inspect", path).code == 0


def test_inspect_a_damaged_report(mcomp: Mcomp, tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        tensors["report"] = np.frombuffer(b'{"rows": [1]}', np.uint8)

    path = altered(model().save(tmp_path / "model.mcomp"), change)
    ran = mcomp("inspect", "--report", path)
    assert (ran.code, ran.out) == (3, "")
    assert "its report cannot be read" in ran.err and "Traceback" not in ran.err


BF16 = """graph @g(%x: bf16[3, 4]) -> (bf16[3, 4]) {
  %y = neg %x : bf16[3, 4]
  return %y
}
"""


def test_opt_writes_weights_beside_the_graph(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mir"
    assert mcomp("opt", folder / "graph.mir", "--pipeline", "dce", "-o", out).code == 0
    assert "seed" not in out.read_text()
    assert mcomp("compare", folder / "graph.mir", out).code == 0
    assert mcomp("opt", out, "--pipeline", "dce", "-o", out).code == 0
    assert mcomp("compare", folder / "graph.mir", out).code == 0


def test_opt_overwrites_no_weights_of_others(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    save_file({"w": np.zeros(2)}, tmp_path / "out.weights.safetensors")
    before = (tmp_path / "out.weights.safetensors").read_bytes()
    ran = mcomp("opt", folder / "graph.mir", "--pipeline", "dce", "-o", tmp_path / "out.mir")
    assert ran.code == 3 and "mcomp did not write it" in ran.err
    assert (tmp_path / "out.weights.safetensors").read_bytes() == before
    assert not (tmp_path / "out.mir").exists()
    ran = mcomp("opt", folder / "graph.mir", "--pipeline", "frobnicate", "-o", tmp_path / "none" / "out.mir")
    assert ran.code == 3 and "there is no folder" in ran.err


def test_opt_reads_standard_input_with_weights(
    mcomp: Mcomp, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.mir"
    mcomp("opt", folder / "graph.mir", "--pipeline", "dce", "-o", out)
    monkeypatch.setattr("sys.stdin", io.StringIO(out.read_text()))
    ran = mcomp("opt", "-", "--pipeline", "dce", "--weights", tmp_path / "out.weights.safetensors")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("graph @mlp")


def test_graphs_of_bf16_need_no_inputs(mcomp: Mcomp, tmp_path: Path) -> None:
    (tmp_path / "half.mir").write_text(BF16)
    assert mcomp("opt", tmp_path / "half.mir", "--pipeline", "dce", "--check").code == 0
    assert mcomp("compare", tmp_path / "half.mir", tmp_path / "half.mir").code == 0
    np.save(tmp_path / "bits.npy", np.full((3, 4), 0x3F80, np.uint16))
    ran = mcomp("compare", tmp_path / "half.mir", tmp_path / "half.mir", "--input", tmp_path / "bits.npy")
    assert ran.code == 0, ran.err


def test_a_file_of_passes_that_is_missing(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    ran = mcomp("opt", folder / "graph.mir", "--pipeline", tmp_path / "none.txt")
    assert ran.code == 3 and "none.txt cannot be read" in ran.err


def test_inspect_gives_the_report_to_programs(mcomp: Mcomp, folder: Path) -> None:
    assert json.loads(mcomp("inspect", folder / "model.mcomp", "--report", "--json").out)["target"] == "reference"


def test_kernels_are_those_of_one_file(mcomp: Mcomp, folder: Path) -> None:
    ran = mcomp("bench", folder / "model.mcomp", folder / "model.mcomp", "--kernels")
    assert (ran.code, ran.out) == (3, "") and "--kernels times one file" in ran.err


@pytest.mark.parametrize("argv", [("run",), ("bench", "--seconds", "0.05")])
def test_the_instruction_set_is_handed_on(
    mcomp: Mcomp, folder: Path, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcomp.runtime.loading import load

    asked: list[object] = []
    monkeypatch.setattr("mcomp.load", lambda path, **options: asked.append(options["isa"]) or load(path, **options))
    assert mcomp(*argv, folder / "model.mcomp", "--isa", "avx2").code == 0
    assert mcomp(*argv, folder / "model.mcomp").code == 0
    assert asked == ["avx2", None]


@pytest.mark.parametrize("name", ["y.npy", "y.npz", "y"])
def test_run_writes_the_file_that_was_asked_for(mcomp: Mcomp, folder: Path, tmp_path: Path, name: str) -> None:
    assert mcomp("run", folder / "model.mcomp", "-o", tmp_path / name).code == 0
    assert [p.name for p in tmp_path.iterdir()] == [name]
    found = np.load(tmp_path / name)
    assert (found if name == "y.npy" else found["output0"]).shape == (1, 4)


def test_run_writes_several_results_to_no_single_array(mcomp: Mcomp, tmp_path: Path) -> None:
    text = "graph @g(%x: f32[2]) -> (f32[2], f32[2]) {\n  %y = neg %x : f32[2]\n  return %x, %y\n}"
    path = model(text).save(tmp_path / "m.mcomp")
    ran = mcomp("run", path, "-o", tmp_path / "y.npy")
    assert ran.code == 3 and "holds one array, and the model returns 2" in ran.err
    assert not (tmp_path / "y.npy").exists()


def test_run_gives_the_mean_of_what_bits_mean(mcomp: Mcomp, tmp_path: Path) -> None:
    path = model("""graph @g(%x: f32[2]) -> (bf16[2]) {
  %z = sub %x, %x : f32[2]
  %c = cos %z : f32[2]
  %y = cast %c {dtype = !bf16} : bf16[2]
  return %y
}""").save(tmp_path / "m.mcomp")
    assert mcomp("run", path).out == "output 0: bf16[2], mean 1.0\n"


@pytest.mark.parametrize("name", ["empty.npy", "cut.npy", "cut.npz", "objects.npy", "objects.npz", "text.npy", "pickle.npy"])
def test_inputs_that_are_no_arrays(mcomp: Mcomp, folder: Path, tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "good.npy", np.zeros((3, 8), np.float32))
    np.savez(tmp_path / "good.npz", np.zeros((3, 8), np.float32))
    objects = np.array([[1], [2, 3]], object)
    path = tmp_path / name
    if name.startswith("cut"):
        path.write_bytes((tmp_path / f"good{path.suffix}").read_bytes()[:150])
    elif name == "pickle.npy":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif name == "text.npy":
        np.save(path, np.array(["a"]))
    elif name == "objects.npz":
        np.savez(path, objects)
    else:
        np.save(path, objects) if name == "objects.npy" else path.touch()
    for command in (("run", folder / "model.mcomp"), ("opt", folder / "graph.mir", "--pipeline", "dce")):
        ran = mcomp(*command, "--input", path)
        assert (ran.code, ran.out) == (3, "")
        assert name in ran.err and "Traceback" not in ran.err


def test_json_has_no_numbers_that_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"a": [math.inf, 1.5], "b": (math.nan, -math.inf), "c": {"d": 1}})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": [None, 1.5], "b": [None, None], "c": {"d": 1}}
