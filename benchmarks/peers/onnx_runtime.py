"""ONNX Runtime on the CPU: fp32, and int8 as the better of its dynamic and static quantizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.case import Array
from benchmarks.peers.base import Candidate, Setup, missing_packages, package_versions
from benchmarks.peers.onnx_files import export

VARIANTS = ("fp32", "int8")
CALIBRATION_SAMPLES = 100


def missing() -> str | None:
    return missing_packages(["torch", "onnx", "onnxscript", "onnxruntime"])


def versions() -> dict[str, str]:
    return package_versions(["onnxruntime", "onnx", "onnxscript"])


class OrtRunner:
    """A session over one model file."""

    details: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path, setup: Setup) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [entry.name for entry in self.session.get_inputs()]
        self.size_bytes: int | None = path.stat().st_size

    def __call__(self, *inputs: Array) -> Array:
        return self.session.run(None, dict(zip(self.names, inputs, strict=True)))[0]

    def bind(self, *inputs: Array) -> Callable[[], object]:
        import onnxruntime

        binding = self.session.io_binding()
        for name, array in zip(self.names, inputs, strict=True):
            binding.bind_cpu_input(name, array)
        found = self(*inputs)
        held = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty_like(found, order="C"), "cpu")
        binding.bind_ortvalue_output(self.session.get_outputs()[0].name, held)
        return partial(self.session.run_with_iobinding, binding)

    def at(self, *inputs: Array) -> Callable[[], object]:
        raise NotImplementedError("exported at the case's own sizes")

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def _fused(path: Path) -> Path:
    """The model after ONNX Runtime's own transformer fusions (attention, layer norm, GELU)."""
    from onnxruntime.transformers import optimizer

    target = path.with_suffix(".fused.onnx")
    optimizer.optimize_model(str(path), model_type="bert", opt_level=1, use_gpu=False).save_model_to_file(str(target))
    return target


def _float(setup: Setup, fuse: bool) -> OrtRunner:
    path = export(setup)
    return OrtRunner(_fused(path) if fuse else path, setup)


def _dynamic(setup: Setup, fuse: bool) -> OrtRunner:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = export(setup)
    target = path.with_suffix(".dynamic.onnx")
    quantize_dynamic(
        _fused(path) if fuse else path, target, per_channel=True, reduce_range=False, weight_type=QuantType.QInt8
    )
    return OrtRunner(target, setup)


def _without_weights(path: Path) -> list[str]:
    """Names of products of two activations. QDQ quantizes them whatever `MatMulConstBOnly` says."""
    import onnx

    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]


def _static(setup: Setup, fuse: bool, method: str, products: bool) -> OrtRunner:
    """`products`: of the operators only products with weights are quantized; else all that ONNX Runtime can."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    case = setup.case

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            batches = case.calibration.batches(case.batch)
            self.batches = (batch for batch, _ in zip(batches, range(CALIBRATION_SAMPLES), strict=False))

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self.batches, None)
            return None if batch is None else dict(zip(case.input_names, batch, strict=True))

    path = export(setup)
    ready = path.with_suffix(".ready.onnx")
    quant_pre_process(_fused(path) if fuse else path, ready, skip_symbolic_shape=True)
    target = path.with_suffix(f".static.{method}.onnx")
    quantize_static(
        ready,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        op_types_to_quantize=["MatMul", "Gemm"] if products else None,
        nodes_to_exclude=_without_weights(ready) if products else None,
        extra_options={"MatMulConstBOnly": True} if products else None,
    )
    return OrtRunner(target, setup)


def candidates(variant: str, setup: Setup) -> list[Candidate]:
    fusions = (True, False) if setup.case.transformer else (False,)

    def title(name: str, fuse: bool) -> str:
        return f"{name}, transformer fusions" if fuse else name

    if variant == "fp32":
        found = [Candidate(title("all optimizations", fuse), partial(_float, setup, fuse)) for fuse in fusions]
    else:
        dynamic = [Candidate(title("dynamic", fuse), partial(_dynamic, setup, fuse)) for fuse in fusions]
        methods = ("MinMax",) if setup.quick else ("MinMax", "Percentile")
        static = [
            Candidate(
                title(f"static QDQ{' of products' if products else ''}, {method}", fuse),
                partial(_static, setup, fuse, method, products),
            )
            for products in ((True, False) if setup.case.transformer else (False,))
            for method in methods
            for fuse in fusions
        ]
        found = dynamic + static if setup.case.transformer else static + dynamic
    return found[:1] if setup.quick else found
