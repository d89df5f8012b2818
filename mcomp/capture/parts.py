"""Capture by module, for models that cannot be exported whole: the largest modules that can, with eager code between."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mcomp.capture import structure
from mcomp.capture.program import Call, CapturedProgram, EagerModule
from mcomp.capture.whole import capture_whole
from mcomp.errors import CallError, CaptureError
from mcomp.ir.store import WeightStore

REMEDY = "rewrite what the reason names without looking at the values of tensors, or leave it: it runs as before"


class Host:
    """A copy of the model in which the forward of some modules is replaced. See `PartsHost`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.originals: dict[str, Callable[..., Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def install(self, path: str, function: Callable[..., Any]) -> None:
        """Let `function` do what the module at `path` does. Calls that it does not fit run as before, with a warning."""
        module = self.model.get_submodule(path)
        original = self.originals.setdefault(path, module.forward)

        def forward(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except CallError as error:
                warnings.warn(f"{path} runs in eager mode for this call: {error.message}", stacklevel=2)
                return original(*args, **kwargs)

        module.forward = forward  # type: ignore[method-assign]

    def buffers(self) -> list[Any]:
        """The buffers of the copied model."""
        return list(self.model.buffers())

    def inputs(self, paths: Sequence[str], calls: Sequence[Call]) -> dict[str, list[Call]]:
        """The calls that these modules get while the original model runs `calls`."""
        return record(self.model, paths, calls, self.originals)


def record(
    model: nn.Module, paths: Sequence[str], calls: Sequence[Call], originals: Mapping[str, Callable[..., Any]]
) -> dict[str, list[Call]]:
    """Run the model on copies of `calls` and note what the modules at `paths` are called with. Buffers are restored."""
    found: dict[str, list[Call]] = {path: [] for path in paths}

    def hook(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[path].append((copy.deepcopy(args), copy.deepcopy(kwargs)))

        return note

    handles = [
        model.get_submodule(path).register_forward_pre_hook(hook(path), with_kwargs=True) for path in paths
    ]
    try:
        with _untouched(model, originals), torch.no_grad():
            for args, kwargs in calls:
                model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _untouched(model: nn.Module, originals: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Original forwards inside; buffers as before afterwards."""
    installed = {path: model.get_submodule(path).forward for path in originals}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for path, forward in originals.items():
        model.get_submodule(path).forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for path, forward in installed.items():
            model.get_submodule(path).forward = forward  # type: ignore[method-assign]
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


def capture_parts(
    host: Host, calls: Sequence[Call], reason: str, *, dynamic: Any, store: WeightStore, time_limit: float = 120.0
) -> tuple[dict[str, CapturedProgram], list[EagerModule]]:
    """The largest modules that can be captured, by path, and what stays eager.

    The first of `calls` is the example; the others show which sizes vary. Modules without parameters stay with the
    code around them. After `time_limit` seconds no more modules are tried.
    """
    model = host.model
    paths = [path for path, module in model.named_modules() if path and any(True for _ in module.parameters())]
    seen = record(model, paths, calls, {})
    parts: dict[str, CapturedProgram] = {}
    eager = [EagerModule("", reason, REMEDY)]
    failed: dict[Any, str] = {}
    deadline = time.monotonic() + time_limit

    def visit(path: str) -> None:
        module = model.get_submodule(path)
        why = _capture(path, module, seen.get(path, []))
        if why is None:
            return
        children = [f"{path}.{name}" for name, _ in module.named_children()]
        inner = [child for child in children if child in seen]
        if seen.get(path) and (not inner or _own_parameters(module)):
            eager.append(EagerModule(path, why, REMEDY))
        for child in inner:
            visit(child)

    def _capture(path: str, module: nn.Module, uses: Sequence[Call]) -> str | None:
        if not uses:
            return "it is not called itself"
        key = (type(module), _structure_key(uses[0]), tuple(name for name, _ in module.named_modules()))
        if key in failed:
            return failed[key]
        if time.monotonic() > deadline:
            return f"there were more than {time_limit:.0f} seconds of trying"
        try:
            first, *rest = uses
            parts[path] = capture_whole(
                module, *first, dynamic=False if dynamic is False else None, others=rest, store=store, path=path
            )
        except CaptureError as error:
            failed[key] = error.message
            return error.message
        return None

    for name, _ in model.named_children():
        if name in seen:
            visit(name)
    return parts, eager


def _own_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _structure_key(call: Call) -> str:
    leaves: list[Any] = []
    spec = structure.describe(call, leaves)
    return f"{spec} {[(tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves]}"
