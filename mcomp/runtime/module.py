"""The nn.Module view of a compiled model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mcomp.errors import CallError

if TYPE_CHECKING:
    from mcomp.runtime.compiled import CompiledModel


class CompiledModule(nn.Module):
    """Behaves as the user's module does: `.eval()`, `.parameters()`, `.to()`, forwarded attributes such as `.config`.

    Parameters and buffers are those of the original, detached: for looking at dtype, device and count, not for training.
    """

    def __init__(self, compiled: CompiledModel, original: Any = None) -> None:
        super().__init__()
        object.__setattr__(self, "_compiled", compiled)
        object.__setattr__(self, "_original", original)
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._compiled(*args, **kwargs)

    def train(self, mode: bool = True) -> CompiledModule:
        """Only `train(False)` is possible. Raises CallError otherwise."""
        if mode:
            raise CallError("a compiled model cannot be trained", help="train the original and optimize it again")
        return self

    def to(self, *args: Any, **kwargs: Any) -> CompiledModule:
        """Accepts what changes nothing (the CPU, devices of the target, the captured dtype). Raises CallError for anything
        else."""
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        target = self._compiled.target.partition(":")[0]
        if device is not None and device.type not in ("cpu", target):
            name = "the CPU" if target == "cpu" else target
            raise CallError(f"this model was compiled for {name} and cannot move to {device}")
        own = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        if dtype is not None and own is not None and dtype != own:
            raise CallError(f"a compiled model keeps its dtype {own}; it cannot become {dtype}",
                            help="convert the original and optimize it again")
        return self

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        if self._original is None:
            return
        for name, parameter in self._original.named_parameters(*args, **kwargs):
            yield name, nn.Parameter(parameter.detach(), requires_grad=False)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        if self._original is not None:
            yield from self._original.named_buffers(*args, **kwargs)

    def parameters(self, recurse: bool = True) -> Any:
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def buffers(self, recurse: bool = True) -> Any:
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__.get("_original")
            if original is not None and not name.startswith("__") and hasattr(original, name):
                return getattr(original, name)
            raise
