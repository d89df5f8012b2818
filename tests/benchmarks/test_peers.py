"""What the peers ask of their runtimes, on stand-ins for these."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from benchmarks.case import Case, Samples, tensors
from benchmarks.peers import eager, inductor, onnx_runtime, open_vino
from benchmarks.peers.base import Setup


@pytest.fixture
def case() -> Case:
    x = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    return Case("x", "x", 1, ("x",), nn.Identity, (x[:1],), Samples((x,)))


class OpenVino(SimpleNamespace):
    """As the module: it remembers configurations, and its models double what is in a request's input tensor."""

    def __init__(self) -> None:
        self.configs: list[dict[str, object]] = []
        super().__init__(Core=lambda: self, Tensor=lambda array, shared_memory=False: (
            np.array(array) if not shared_memory else array))

    def save_model(self, model: Any, path: Path, compress_to_fp16: bool) -> None:
        path.touch()
        path.with_suffix(".bin").touch()

    def convert_model(self, module: Any, **options: Any) -> Any:
        return module

    def read_model(self, path: Path) -> Any:
        return SimpleNamespace(reshape=lambda shapes: None)

    def compile_model(self, model: Any, device: str, config: dict[str, object]) -> Any:
        self.configs.append(config)
        return SimpleNamespace(create_infer_request=Request)


class Request:
    """An input tensor that `infer` copies what it is given into."""

    def __init__(self) -> None:
        self.tensors: dict[int, np.ndarray] = {}

    def set_input_tensor(self, index: int, tensor: np.ndarray) -> None:
        self.tensors[index] = tensor

    def infer(self, inputs: list[np.ndarray] | None = None, share_outputs: bool = False) -> list[np.ndarray]:
        for index, array in enumerate(inputs or []):
            held = self.tensors.setdefault(index, np.empty_like(array))
            held[:] = array
        return [2 * self.tensors[0]]


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> OpenVino:
    module = OpenVino()
    nncf = SimpleNamespace(
        quantize=lambda model, *given, **options: model, Dataset=list, QuantizationPreset=str,
        ModelType=SimpleNamespace(TRANSFORMER="transformer"), TargetDevice=SimpleNamespace(CPU="cpu"),
    )
    for name, stand_in in (("openvino", module), ("nncf", nncf)):
        monkeypatch.setitem(sys.modules, name, stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr(open_vino, "_model", lambda setup, through: None)
    return module


def test_openvino_computes_fp32_in_f32_and_the_rest_of_int8_in_either(
    case: Case, openvino: OpenVino, tmp_path: Path
) -> None:
    asked: dict[str, set[object]] = {}
    for variant in open_vino.VARIANTS:
        openvino.configs.clear()
        found = open_vino.candidates(variant, Setup(case, 1, tmp_path))
        assert len({candidate.name for candidate in found}) == len(found)
        for candidate in found:
            candidate.make()
        asked[variant] = {config.get("INFERENCE_PRECISION_HINT", "default") for config in openvino.configs}
    assert asked == {"fp32": {"f32"}, "int8": {"default", "f32"}}


@pytest.mark.parametrize("way", ["bind", "at"])
def test_openvino_is_timed_on_the_example_whatever_was_scored(
    case: Case, openvino: OpenVino, tmp_path: Path, way: str
) -> None:
    runner = open_vino.candidates("fp32", Setup(case, 1, tmp_path))[0].make()
    bound: Any = getattr(runner, way)(*case.example)
    assert runner(case.calibration.inputs[0][3:])[0].tolist() == [18.0, 20.0, 22.0]
    assert bound()[0].tolist() == [[0.0, 2.0, 4.0]]
    assert case.example[0].tolist() == [[0.0, 1.0, 2.0]]


def test_inputs_of_a_case_are_its_own_and_cannot_be_written_to(case: Case) -> None:
    assert not np.shares_memory(case.example[0], case.calibration.inputs[0])
    for array in (case.example[0], case.calibration.inputs[0], next(case.calibration.batches(2))[0]):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    given = tensors(case.example)[0]
    given.zero_()
    assert case.example[0].tolist() == [[0.0, 1.0, 2.0]]


def test_onnxruntime_writes_where_it_wrote_before(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: dict[str, object] = {}

    class Value:
        @staticmethod
        def ortvalue_from_numpy(array: np.ndarray, device: str) -> np.ndarray:
            return array

    binding = SimpleNamespace(
        bind_cpu_input=bound.__setitem__, bind_ortvalue_output=bound.__setitem__,
        bind_output=lambda *given: pytest.fail("ONNX Runtime allocates what it has no place for, each time"),
    )
    session = SimpleNamespace(
        io_binding=lambda: binding, get_outputs=lambda: [SimpleNamespace(name="output")],
        run=lambda names, feed: [feed["x"] * 2], run_with_iobinding=lambda given: None,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(OrtValue=Value))  # type: ignore[arg-type]
    runner = onnx_runtime.OrtRunner.__new__(onnx_runtime.OrtRunner)
    runner.session, runner.names = session, ["x"]
    runner.bind(*case.example)()
    output = bound["output"]
    assert isinstance(output, np.ndarray)
    assert (output.shape, output.dtype, output.flags.writeable) == ((1, 3), np.float32, True)


@pytest.mark.parametrize("transformer", [True, False])
def test_onnxruntime_quantizes_products_of_transformers_alone_too(case: Case, tmp_path: Path, transformer: bool) -> None:
    setup = Setup(dataclasses.replace(case, transformer=transformer), 1, tmp_path)
    names = [candidate.name for candidate in onnx_runtime.candidates("int8", setup)]
    assert len(set(names)) == len(names)
    assert ("static QDQ of products, MinMax" in names) is transformer
    assert "static QDQ, MinMax" in names


def test_products_of_activations_are_told_from_those_with_weights(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make = onnx.helper.make_node
    nodes = [make("MatMul", ["x", "w"], ["y"], "fc"), make("MatMul", ["y", "x"], ["z"], "scores")]
    weight = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [2, 2])], [value("z", 1, [2, 2])], [weight])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    assert onnx_runtime._without_weights(tmp_path / "m.onnx") == ["scores"]


def test_inductor_is_tried_with_a_cpp_wrapper_and_images_with_channels_last(case: Case, tmp_path: Path) -> None:
    names = [candidate.name for candidate in inductor.candidates("fp32", Setup(case, 1, tmp_path))]
    assert "freezing, C++ wrapper" in names
    assert not any("channels last" in name for name in names)
    images = dataclasses.replace(case, example=(np.zeros((1, 3, 4, 4), np.float32),))
    more = [candidate.name for candidate in inductor.candidates("fp32", Setup(images, 1, tmp_path))]
    assert set(more) - set(names) == {"freezing, channels last", "freezing, C++ wrapper, channels last"}


def test_images_go_in_with_channels_last_where_that_is_asked_for() -> None:
    x = np.zeros((2, 3, 4, 4), np.float32)
    strides = [eager.TorchRunner(lambda t: t.stride(), None, last).bind(x)() for last in (False, True)]
    assert strides == [(48, 16, 4, 1), (48, 1, 12, 3)]
