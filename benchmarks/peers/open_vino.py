"""OpenVINO on the CPU: fp32, and int8 by NNCF's static post-training quantization."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from benchmarks.case import Array
from benchmarks.peers.base import (
    Candidate,
    Setup,
    missing_packages,
    package_versions,
    torch_example,
    torch_module,
)
from benchmarks.peers.onnx_files import export

VARIANTS = ("fp32", "int8")
CALIBRATION_SAMPLES = 300


def missing() -> str | None:
    return missing_packages(["torch", "onnx", "onnxscript", "openvino", "nncf"])


def versions() -> dict[str, str]:
    return package_versions(["openvino", "nncf"])


def _bound(compiled: Any, inputs: Sequence[Array]) -> Callable[[], object]:
    """A request of its own over copies of the inputs: the request of `__call__` writes into its tensors."""
    import openvino

    request = compiled.create_infer_request()
    for index, array in enumerate(inputs):
        request.set_input_tensor(index, openvino.Tensor(array))
    return partial(request.infer, share_outputs=True)


class OpenVinoRunner:
    """A compiled model and one inference request; its size is that of the saved IR."""

    details: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, model: Any, setup: Setup, precision: str | None = "f32") -> None:
        """precision: of what is not quantized; None leaves it to OpenVINO, which takes bf16 or f16 where CPUs have them."""
        import openvino

        config: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": setup.threads,
            "NUM_STREAMS": 1,
        }
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        path = setup.folder() / "openvino.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        self.size_bytes: int | None = path.stat().st_size + path.with_suffix(".bin").stat().st_size
        self.core, self.path, self.config = openvino.Core(), path, config
        self.compiled = self.core.compile_model(path, "CPU", config)
        self.request = self.compiled.create_infer_request()

    def __call__(self, *inputs: Array) -> Array:
        return self.request.infer(list(inputs))[0].copy()

    def bind(self, *inputs: Array) -> Callable[[], object]:
        return _bound(self.compiled, inputs)

    def at(self, *inputs: Array) -> Callable[[], object]:
        """A model compiled for just these sizes, which is faster than one for any size."""
        model = self.core.read_model(self.path)
        model.reshape({index: list(array.shape) for index, array in enumerate(inputs)})
        return _bound(self.core.compile_model(model, "CPU", self.config), inputs)

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def _model(setup: Setup, through: str) -> Any:
    """The case as an OpenVINO model at its own static shapes, converted from the traced module or from ONNX."""
    import openvino

    if through == "onnx":
        return openvino.convert_model(export(setup))
    shapes = [list(array.shape) for array in setup.case.example]
    return openvino.convert_model(torch_module(setup), example_input=torch_example(setup), input=shapes)


def _float(setup: Setup, through: str) -> OpenVinoRunner:
    return OpenVinoRunner(_model(setup, through), setup)


def _int8(setup: Setup, through: str, preset: str | None, fast: bool, precision: str | None) -> OpenVinoRunner:
    import nncf

    case = setup.case
    batches = [list(batch) for batch in case.calibration.batches(case.batch)]
    quantized = nncf.quantize(
        _model(setup, through),
        nncf.Dataset(batches),
        subset_size=min(CALIBRATION_SAMPLES, len(batches)),
        preset=None if preset is None else nncf.QuantizationPreset(preset),
        model_type=nncf.ModelType.TRANSFORMER if case.transformer else None,
        fast_bias_correction=fast,
        target_device=nncf.TargetDevice.CPU,
    )
    return OpenVinoRunner(quantized, setup, precision)


def candidates(variant: str, setup: Setup) -> list[Candidate]:
    routes = ("torch", "onnx")
    if variant == "fp32":
        found = [Candidate(f"from {route}", partial(_float, setup, route)) for route in routes]
    else:
        presets = ("mixed", "performance")
        found = [
            Candidate(
                f"NNCF {preset}, from {route}{', rest in f32' if precision else ''}",
                partial(_int8, setup, route, preset, True, precision),
                {"precision": precision or "default"},
            )
            for preset in (presets if setup.case.transformer else presets[::-1])
            for route in routes
            for precision in (None, "f32")
        ]
    return found[:1] if setup.quick else found
