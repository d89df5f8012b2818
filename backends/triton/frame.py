"""What one call runs in: memory by buffer, launches with their arguments, recordings of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.backend import Array
from mcomp.backends.triton.access import Buffer, Coded, Place, View
from mcomp.backends.triton.plan import Plan, buffers_of, plan_memory, size_of
from mcomp.backends.triton.precision import full_precision
from mcomp.backends.triton.program import Config, Launch, TorchStep
from mcomp.backends.triton.ship import looking_in
from mcomp.errors import BackendError, CallError
from mcomp.ir import dims
from mcomp.ir.dtypes import to_torch
from mcomp.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.backends.triton.executor import TritonExecutable

LARGEST = 2**31 - 1
"""Kernels count elements in 32 bits: a buffer may hold so many."""


class Ready:
    """A program for one set of sizes: its steps, its plan, and frames that are free."""

    def __init__(self, owner: TritonExecutable, steps: Sequence[Launch | TorchStep], symbols: dict[str, int]) -> None:
        self.owner, self.steps, self.symbols = owner, list(steps), symbols
        self.plan: Plan = plan_memory(self.steps, symbols)
        known = all(set().union(*(dims.symbols(d) for _, d in (*s.numbers, *s.sizes))) <= symbols.keys()
                    for s in self.steps if isinstance(s, Launch))
        self.recordable = owner.records and known and all(isinstance(s, Launch) or s.library for s in self.steps)
        self._free: dict[int, list[Frame]] = {}
        for step in self.steps if not owner.program.graph.symbols.keys() - symbols.keys() else ():
            for buffer in buffers_of(step):
                check_size(size_of(buffer.numel, symbols))

    def take(self) -> Frame:
        """A frame that no other call uses, nor one that may still run on another stream."""
        stream = self.owner.device.stream()
        try:
            return self._free.setdefault(stream, []).pop()
        except IndexError:
            return Frame(self, stream)

    def give_back(self, frame: Frame) -> None:
        """Keep a frame for a later call on the same stream."""
        self._free.setdefault(frame.stream, []).append(frame)


class Frame:
    """Memory of one call at a time. Results are always fresh memory: neither of the pool nor of a recording."""

    def __init__(self, ready: Ready, stream: int = 0) -> None:
        self.ready = ready
        self.stream = stream
        self.owner = ready.owner
        self.device = ready.owner.device
        import torch

        with torch.inference_mode(False):
            self.pool = self.device.empty(max(1, ready.plan.nbytes), torch.uint8)
            self.fault = torch.zeros(1, dtype=torch.int32, device=self.device.torch_device)
        self.tensors: dict[Buffer, Tensor] = {}
        self.symbols: dict[str, int] = {}
        self._watched: list[Callable[[], int | None]] = []
        self._runs = 0
        self._replay: Any = None
        self._fixed_inputs: list[Tensor] = []
        self._fixed_outputs: list[Tensor] = []
        self._bound: dict[Launch, tuple[Any, tuple[int, ...], list[Any], Config]] = {}
        for buffer, offset in ready.plan.offsets.items():
            count = size_of(buffer.nbytes, ready.symbols)
            self.tensors[buffer] = self.pool[offset : offset + count].view(_stored(buffer))

    # calls

    def run(self, inputs: Sequence[Array], symbols: dict[str, int], *, numpy: bool) -> list[Array]:
        """One call; see `Executable.run`."""
        import torch

        with torch.inference_mode(False), torch.no_grad():
            given = [self._given(x, b) for x, b in zip(inputs, self.owner.program.inputs, strict=True)]
            away = any(isinstance(x, torch.Tensor) and x.device.type != "cpu" for x in inputs)
            outputs = self._replayed(given, symbols) if self.ready.recordable else self._walked(given, symbols)
            if self._uses_fault():
                self._look_for_faults(wait=not away or self.device.chip.interpreted)
            return [self._result(x, i, numpy, away) for i, x in enumerate(outputs)]

    def profile(self, inputs: Sequence[Array], symbols: dict[str, int]) -> list[float]:
        """Microseconds of each step, by the device's clock."""
        import torch

        times: list[float] = []
        with torch.inference_mode(False), torch.no_grad():
            self._start([self._given(x, b) for x, b in zip(inputs, self.owner.program.inputs, strict=True)], symbols)
            for step in self.ready.steps:
                self._step(step)  # compiles, and measures configurations
                times.append(self.device.milliseconds(lambda s=step: self._step(s)) * 1e3)  # type: ignore[misc]
        self._forget()
        return times

    def _walked(self, given: list[Tensor], symbols: dict[str, int]) -> list[Tensor]:
        self._start(given, symbols)
        for step in self.ready.steps:
            self._step(step)
        outputs = [self._output(view) for view in self.owner.program.outputs]
        self._forget()
        return outputs

    def _replayed(self, given: list[Tensor], symbols: dict[str, int]) -> list[Tensor]:
        """The first call walks, which compiles and measures; the second records; later ones replay. Inputs are copied to
        where the recording reads them, results to fresh memory."""
        self._runs += 1
        if self._runs == 1:
            return self._walked(given, symbols)
        if self._replay is None:
            self._fixed_inputs = [x.clone() for x in given]
            self._start(self._fixed_inputs, symbols)
            self._fixed_outputs = [self._output(view) for view in self.owner.program.outputs]
            for view, out in zip(self.owner.program.outputs, self._fixed_outputs):
                self.tensors[view.buffer] = out
            self._replay = self.device.record(self._all_steps)
        for fixed, x in zip(self._fixed_inputs, given):
            fixed.copy_(x)
        self._replay()
        return [x.clone() for x in self._fixed_outputs]

    def only_steps(self, symbols: Mapping[str, int]) -> None:
        """Run the steps on whatever is in memory, to be timed."""
        self.symbols = dict(symbols)
        self._all_steps()

    def _all_steps(self) -> None:
        for step in self.ready.steps:
            self._step(step)

    # steps

    def _start(self, given: Sequence[Tensor], symbols: dict[str, int]) -> None:
        self.symbols = symbols
        for buffer, x in zip(self.owner.program.inputs, given):
            self.tensors[buffer] = x
        self._bound.clear()

    def _forget(self) -> None:
        """Let go of what belongs to one call."""
        kept = self.ready.plan.offsets
        self.tensors = {b: t for b, t in self.tensors.items() if b in kept}
        self._bound.clear()

    def _step(self, step: Launch | TorchStep) -> None:
        if isinstance(step, Launch):
            self._launch(step)
        else:
            self._torch(step)

    def _launch(self, step: Launch) -> None:
        bound = self._bound.get(step)
        if bound is None:
            numbers = {name: size_of(d, self.symbols) for name, d in step.numbers}
            sizes = {**numbers, **{name: size_of(d, self.symbols) for name, d in step.sizes}}
            if any(s == 0 for n, s in sizes.items() if n in ("count", "rows", "batch")):
                bound = (None, (0,), [], Config(()))
            else:
                bound = self._bind(step, numbers, sizes)
            self._bound[step] = bound
        function, grid, args, config = bound
        if function is not None and all(grid):
            self.device.launch(function, grid, args, config)

    def _bind(
        self, step: Launch, numbers: Mapping[str, int], sizes: Mapping[str, int]
    ) -> tuple[Any, tuple[int, ...], list[Any], Config]:
        """Function, grid, arguments and configuration of a launch. The first launch of a kernel is made here, where it looks
        for code that came with the model; it is made again by the caller, to the same effect."""
        args: list[Any] = [self.pointer(buffer, kind) for _, buffer, kind in step.pointers]
        args += [self.fault] if step.fault else []
        args += numbers.values()
        function = self.owner.function(step)
        config = self.owner.config(step, sizes, lambda c: self.device.launch(function, step.grid(sizes, c), args, c))
        grid = step.grid(sizes, config)
        first = (step.name, config)
        if self.owner.shipped is not None and first not in self.owner.started and all(grid):
            with looking_in(self.owner.shipped):
                self.device.launch(function, grid, args, config)
            self.owner.started.add(first)
        return function, grid, args, config

    def pointer(self, buffer: Buffer, kind: str) -> Tensor:
        """The memory of a buffer as elements of a type; truths as bytes."""
        import torch

        found = self.memory(buffer)
        wanted: Any = torch.uint8 if kind == "u8" else to_torch(_dtype(kind))
        return found if found.dtype == wanted else found.view(wanted)

    def memory(self, buffer: Buffer) -> Tensor:
        """The memory of a buffer, which is made now where nobody planned it."""
        found = self.tensors.get(buffer)
        if found is not None:
            return found
        if buffer.kind == "const":
            constant: Tensor = self.owner.constant(buffer)
            return constant
        count = size_of(buffer.numel, self.symbols)
        check_size(count)
        self.tensors[buffer] = made = self.device.empty(count, _stored(buffer))
        return made

    def _torch(self, step: TorchStep) -> None:
        import contextlib

        import torch

        from mcomp.ops.evaluate import run_node

        given = [None if p is None else self._seen(p) for p in step.inputs]
        home: Any = contextlib.nullcontext() if self.device.chip.interpreted else torch.device(self.device.torch_device)
        with home, full_precision():
            if step.into is not None and isinstance(step.outputs[0], View):
                step.into(*given, out=self.tensor(step.outputs[0]))
                return
            if step.call is not None:
                out = step.call(*given)
                results = tuple(out) if isinstance(out, (tuple, list)) else (out,)
            else:
                results = run_node(step.node, given, self.symbols)
        for place, result in zip(step.outputs, results):
            if isinstance(place, Coded):
                for name, view in place.parts:
                    self._keep(view, result.parts[name])
            else:
                self._keep(place, result, fresh=step.library)

    def _seen(self, place: Place) -> Any:
        if isinstance(place, Coded):
            from mcomp.ops.encoded import Encoded

            return Encoded(place.type, {name: self.tensor(view) for name, view in place.parts})
        return self.tensor(place)

    def tensor(self, view: View) -> Tensor:
        """A view as a tensor."""
        sizes = [size_of(d, self.symbols) for d in view.shape]
        strides = [size_of(d, self.symbols) for d in view.strides]
        memory = self.memory(view.buffer)
        wanted = to_torch(view.dtype)
        if memory.dtype != wanted:
            memory = memory.view(wanted)
        return memory.as_strided(sizes, strides, size_of(view.offset, self.symbols) + memory.storage_offset())

    def _keep(self, view: View, result: Any, *, fresh: bool = False) -> None:
        """Put what torch returned where the program expects it. `fresh`: nothing else has its memory."""
        import torch

        found = result if isinstance(result, torch.Tensor) else torch.tensor(result)
        found = found.to(self.device.torch_device)
        if view.buffer.kind in ("torch", "output") and view.buffer not in self._fixed():
            held = found.contiguous()
            shared = (held is result and not fresh) or held._is_view() or held.storage_offset() != 0
            self.tensors[view.buffer] = (held.clone() if shared else held).reshape(-1)
            return
        self.tensor(view).copy_(found.reshape([size_of(d, self.symbols) for d in view.shape]))

    def _fixed(self) -> set[Buffer]:
        return {v.buffer for v in self.owner.program.outputs} if self._fixed_outputs else set()

    # borders

    def _given(self, x: Array, buffer: Buffer) -> Tensor:
        """An argument as flat memory on the device."""
        import torch

        if isinstance(x, np.ndarray):
            from mcomp.ops.encoded import tensor_of

            x = tensor_of(x, buffer.dtype)
        if not isinstance(x, torch.Tensor):
            x = torch.tensor(x, dtype=to_torch(buffer.dtype))
        flat = x.detach().to(self.device.torch_device).contiguous().reshape(-1)
        if flat.data_ptr() % 16 and not self.device.chip.interpreted:
            flat = flat.clone()
        return flat

    def _output(self, view: View) -> Tensor:
        return self.memory(view.buffer)

    def _result(self, flat: Tensor, i: int, numpy: bool, away: bool) -> Any:
        from mcomp.ops.encoded import array_of

        type = self.owner.graph.outputs[i].type
        if not isinstance(type, TensorType):
            return flat.reshape(()).item()
        shape = [size_of(d, self.symbols) for d in type.shape]
        found = flat.reshape(shape)
        if not away and found.device.type != "cpu":
            found = found.cpu()
        return array_of(found) if numpy else found

    def _uses_fault(self) -> bool:
        return any(isinstance(s, Launch) and s.fault for s in self.ready.steps)

    def _look_for_faults(self, *, wait: bool) -> None:
        """Raise CallError for a bad index of this call, or with `wait` false, for one of an earlier call: results that stay
        on the device are not waited for."""
        if wait:
            self._check_fault(int(self.fault.item()))
            return
        self._watched.append(self.device.watch(self.fault))
        known = [code for watch in self._watched if (code := watch()) is not None]
        del self._watched[: len(known)]
        self._check_fault(max(known, default=0))

    def _check_fault(self, code: int) -> None:
        """Raise CallError when a kernel met a bad index."""
        if not code:
            return
        self.fault.zero_()
        self._watched.clear()  # copies of the same fault
        faulty = [s for s in self.owner.program.launches() if s.fault]
        node = faulty[code - 1].node if code <= len(faulty) else None
        name = "a lookup" if node is None else node.op.name
        raise CallError(
            f"{name}: an index is out of range", code="MC0405", where=None if node is None else str(node.loc) or node.layer,
            help="check the arguments: an index must be smaller than the table it is looked up in",
        )


def check_size(count: int) -> None:
    """Raise BackendError for a tensor whose elements 32 bits cannot count."""
    if count > LARGEST:
        raise BackendError(f"a tensor has {count} elements; kernels count in 32 bits", code="MC0611",
                           help="use a smaller batch")


def _stored(buffer: Buffer) -> Any:
    return to_torch(buffer.dtype)


def _dtype(kind: str) -> Any:
    from mcomp.ir.dtypes import DTYPES

    return DTYPES[kind]



