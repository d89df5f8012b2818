"""What is timed: the same network eagerly, compiled by torch, quantized by torchao, and by mcomp."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.models import Inputs, Network
from mcomp.backend import KernelInfo

Call = Callable[[], Any]
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


OURS = "mcomp"
"""What the names of our runners begin with."""


@dataclass(frozen=True)
class Runner:
    """A name, and what runs it once on fixed inputs and returns the outputs. `kernels`: what that comes to, where it is
    known."""

    name: str
    call: Call
    kernels: tuple[KernelInfo, ...] = ()


def cast(inputs: Inputs, dtype: torch.dtype, device: str) -> Inputs:
    """Inputs on a device, floats in an element type."""
    return tuple(x.to(device, dtype) if x.is_floating_point() else x.to(device) for x in inputs)


def ours(network: Network, inputs: Inputs, dtype: torch.dtype, device: str, pipeline: str = "") -> Runner:
    """mcomp's compiled model, called with tensors that are on the device already."""
    from mcomp.backend import CompileOptions, backend_named
    from mcomp.capture import capture
    from mcomp.manager import Context, PassManager
    from mcomp.manager.defaults import AFTER, CLEANUP
    from mcomp.runtime.calibration import calibration_from
    from mcomp.runtime.choose import compile_on

    module = copy.deepcopy(network.module).to(dtype)
    given = cast(inputs, dtype, "cpu")
    captured = capture(module, given, {}, dynamic=None, others=[])
    if captured.program is None:
        raise RuntimeError(f"the model cannot be captured whole: {captured.eager}")
    program = captured.program
    calibration = calibration_from([(given, {})], program.signature, program.arguments, program.graph, given=True)
    context = Context(target="cuda", calibration=calibration)
    graph = program.graph
    PassManager(",".join(p for p in (CLEANUP, pipeline, AFTER) if p)).run(graph, context)
    from mcomp.ir.binding import bind_inputs

    symbols = bind_inputs(graph, list(given))
    executable = compile_on(backend_named("cuda"), graph, CompileOptions(hints=symbols), context)
    held = list(cast(inputs, dtype, device))
    label = {"": str(dtype).removeprefix("torch.")}.get(pipeline, pipeline.split("{")[0])
    return Runner(f"{OURS} {label}", lambda: executable.run(held, symbols)[0], tuple(executable.kernels(symbols)))


def eager(network: Network, inputs: Inputs, dtype: torch.dtype, device: str, name: str) -> Runner:
    """The module itself."""
    module = copy.deepcopy(network.module).to(device, dtype)
    given = cast(inputs, dtype, device)

    def call() -> Any:
        with torch.inference_mode():
            return module(*given)

    return Runner(f"eager {name}", call)


def inductor(network: Network, inputs: Inputs, dtype: torch.dtype, device: str, name: str) -> Runner:
    """torch.compile with max-autotune."""
    module = torch.compile(copy.deepcopy(network.module).to(device, dtype), mode="max-autotune")
    given = cast(inputs, dtype, device)

    def call() -> Any:
        with torch.inference_mode():
            return module(*given)

    return Runner(f"inductor {name}", call)


def torchao(network: Network, inputs: Inputs, dtype: torch.dtype, device: str, kind: str, group: int) -> Runner:
    """torchao's quantized model, compiled by torch. kind: int8, fp8 or int4; `group`: of int4, weights to a scale."""
    from torchao import quantization as q

    module = copy.deepcopy(network.module).to(device, dtype)
    settings = {
        "int8": lambda: q.Int8DynamicActivationInt8WeightConfig(),
        "fp8": lambda: q.Float8DynamicActivationFloat8WeightConfig(),
        "int4": lambda: q.Int4WeightOnlyConfig(group_size=group),
    }
    q.quantize_(module, settings[kind]())
    fast = torch.compile(module, mode="max-autotune")
    given = cast(inputs, dtype, device)

    def call() -> Any:
        with torch.inference_mode():
            return fast(*given)

    return Runner(f"torchao {kind}", call)
