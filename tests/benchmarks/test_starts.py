"""Cold starts and compile times: what is started with what, on stand-ins for runtimes; a real start, a real compilation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mcomp
from benchmarks import cold, compile_time
from benchmarks.networks import mlp
from mcomp.backend import backend_named


class Runtimes:
    """mcomp, ONNX Runtime and OpenVINO in one; it remembers the shapes that models were called with, and configurations."""

    def __init__(self) -> None:
        self.shapes: list[list[int]] = []
        self.level = ""
        self.config: dict[str, object] = {}
        self.SessionOptions = SimpleNamespace
        self.GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL="none")

    def take(self, *given: Any) -> None:
        self.shapes += [list(array.shape) for array in given]

    def load(self, path: str, trust_code: bool, threads: int) -> Any:
        values = [SimpleNamespace(tensor=SimpleNamespace(shape=("B", "S", 3), dtype=SimpleNamespace(numpy=np.int64)))]
        bounds = {"B": SimpleNamespace(low=2), "S": SimpleNamespace(low=1)}
        program = SimpleNamespace(face=SimpleNamespace(symbols=bounds), input_values=lambda: values)
        model = self.take
        return type("Model", (), {"built": SimpleNamespace(program=program), "__call__": staticmethod(model)})()

    def InferenceSession(self, path: str, options: Any, providers: list[str]) -> Any:
        if hasattr(options, "optimized_model_filepath"):
            Path(options.optimized_model_filepath).write_bytes(b"123")
        self.level = getattr(options, "graph_optimization_level", "")
        value = SimpleNamespace(name="x", shape=["B", "S", 3], type="tensor(int64)")
        return SimpleNamespace(get_inputs=lambda: [value], run=lambda names, feed: self.take(*feed.values()))

    def Core(self) -> Any:
        def compile_model(path: str, device: str, config: dict[str, object]) -> Any:
            self.config = config
            size = lambda n: SimpleNamespace(is_static=n > 0, get_length=lambda: n)  # noqa: E731
            value = SimpleNamespace(
                partial_shape=[size(0), size(0), size(3)], element_type=SimpleNamespace(to_dtype=lambda: np.int64)
            )
            return type("Model", (), {"inputs": [value], "__call__": lambda _, given: self.take(*given)})()

        return SimpleNamespace(compile_model=compile_model)


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Runtimes:
    found = Runtimes()
    for name in ("mcomp", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, found)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("suffix", [".mcomp", ".onnx", ".xml"])
@pytest.mark.parametrize(("sizes", "shape"), [({"S": 128}, [1, 128, 3]), ({"S": 16, "B": 4}, [4, 16, 3]), ({}, [1, 1, 3])])
def test_symbols_have_the_sizes_that_are_asked_for(
    runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, sizes: dict[str, int], shape: list[int]
) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"12")
    for way in cold.ways([file], 3, sizes, tmp_path)[1:]:
        runtimes.shapes.clear()
        monkeypatch.setattr(sys, "argv", ["-c", *way.arguments])
        exec(way.program, {})
        least = 2 if suffix == ".mcomp" and "B" not in sizes else shape[0]
        assert runtimes.shapes == [[least, *shape[1:]]]


def test_what_runtimes_make_ahead_is_started_too(
    runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "b.xml"]
    for file in files:
        file.write_bytes(b"12")
    found = {way.name: way for way in cold.ways(files, 1, {}, tmp_path)}
    assert list(found) == ["Python with numpy", "a.onnx", "a.onnx, optimized", "b.xml", "b.xml, CACHE_DIR"]
    assert [way.file_bytes for way in found.values()] == [None, 2, 3, 2, 2]
    seen = []
    for way in list(found.values())[1:]:
        monkeypatch.setattr(sys, "argv", ["-c", *way.arguments])
        exec(way.program, {})
        seen.append((runtimes.level, "CACHE_DIR" in runtimes.config))
    assert seen[:2] == [("", False), ("none", False)]
    assert [cached for _, cached in seen[2:]] == [False, True]


def test_sizes_are_read_or_refused() -> None:
    assert cold.sizes_of("S=128,B=1") == {"S": 128, "B": 1}
    for text in ("S", "S=", "=3", "S=0", "S=x"):
        with pytest.raises(argparse.ArgumentTypeError, match="write S=128,B=1"):
            cold.sizes_of(text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.mcomp"
    mcomp.optimize(mlp((8, 8, 4)).eval(), (torch.ones(2, 8),), threads=1, progress=False).save(path)
    return path


def test_starts_are_kept_without_places(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "cold.json"
    assert cold.main([str(saved), "--starts", "1", "--threads", "1", "--sizes", "B=4", "--json", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["command"] == "python -m benchmarks.cold small.mcomp --starts 1 --threads 1 --sizes B=4 --json OUT"
    assert [(row["name"], len(row["starts"])) for row in found["rows"]] == [("Python with numpy", 2), ("small.mcomp", 2)]
    assert found["sizes"] == {"B": 4}
    assert "| small.mcomp |" in capsys.readouterr().out


def test_a_compilation_is_timed_in_its_parts_with_an_empty_cache(tmp_path: Path) -> None:
    usual = backend_named("cpu")
    model = mlp((8, 8, 4)).eval()
    for number in range(2):
        fast, seconds = compile_time.compiled(model, (torch.ones(2, 8),), tmp_path / str(number), threads=1)
        assert list(seconds) == ["capture", "after capture", "C++ compiler"]
        assert seconds["C++ compiler"] > 0.0
        assert [*(tmp_path / str(number) / "code").glob("*.so")]
        torch.testing.assert_close(fast(torch.ones(2, 8)), model(torch.ones(2, 8)))
    assert backend_named("cpu") is usual


def test_binding_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_time.main(["--no-minilm", "--threads", "1", "--json", str(tmp_path / "c.json")]) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["mlp"]["bind us"] > 0.0 and found["mlp"]["call us"] > 0.0
    assert "| MLP 100-64-32-1, batch 1, bind us |" in capsys.readouterr().out
