"""PyTorch as the user has it: the module itself under inference mode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from benchmarks.case import Array, tensors
from benchmarks.peers.base import Candidate, Setup, missing_packages, package_versions, torch_module

VARIANTS = ("fp32",)


def missing() -> str | None:
    return missing_packages(["torch"])


def versions() -> dict[str, str]:
    return package_versions(["torch"])


class TorchRunner:
    """A callable on tensors, be it a module or a compiled function; its size is that of the weights. With `channels_last` it
    gets images in that layout."""

    details: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, function: Callable[..., Any], size_bytes: int | None, channels_last: bool = False) -> None:
        self.function = function
        self.size_bytes = size_bytes
        self.channels_last = channels_last

    def __call__(self, *inputs: Array) -> Array:
        with self.context():
            return self.bind(*inputs)().numpy()

    def bind(self, *inputs: Array) -> Callable[[], Any]:
        import torch

        given, function = tensors(inputs), self.function
        if self.channels_last:
            given = tuple(t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in given)
        return lambda: function(*given)

    at = bind

    def context(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.inference_mode()


def weight_bytes(module: Any) -> int:
    """Bytes of the module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def candidates(variant: str, setup: Setup) -> list[Candidate]:
    def make() -> TorchRunner:
        module = torch_module(setup)
        return TorchRunner(module, weight_bytes(module))

    return [Candidate("inference_mode", make)]
