"""Running lowered programs: native segments and torch steps in order, on the caller's arrays."""

from __future__ import annotations

import os
import statistics
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcomp.backend import Array, Bound, Executable, Interface, KernelInfo
from mcomp.backends.cpu.access import Access, Buffer, aligned_bytes
from mcomp.backends.cpu.arrays import address, as_numpy, as_tensor, contiguous, empty
from mcomp.backends.cpu.constants import Constants
from mcomp.backends.cpu.cxx import Computed
from mcomp.backends.cpu.emit import SegmentCode, interface_buffers, part_buffers
from mcomp.backends.cpu.kernel import EncodedAccess, KernelStep, Program, Segment, TorchStep
from mcomp.backends.cpu.library import Entry, Library
from mcomp.backends.cpu.plan import SegmentPlan
from mcomp.backends.cpu.schedule import size_of
from mcomp.errors import CallError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node, Value
from mcomp.ir.types import TensorType, Type

_PLANS_KEPT = 32


class IndexFault(CallError, IndexError):
    """An index out of range, or a division of whole numbers by zero, met while running."""

    default_code = "MC0405"


@dataclass(frozen=True)
class Code:
    """Compiled code and what it was made from: the library, the source and the instruction set."""

    library: Library
    source: str
    isa: str


class CpuExecutable(Executable):
    """A program with its compiled code. Calls from several threads run side by side, each in a frame of its own."""

    def __init__(self, program: Program, codes: Sequence[SegmentCode], code: Code, threads: int | None) -> None:
        self.graph = program.graph
        self.threads = threads if threads is not None else available_threads()
        self._program = program
        self._code, self._codes = code, codes
        packing, *native = (code.library.entry(c.prefix) for c in codes)
        used = {b: None for part in program.parts for b in part_buffers(part) if b.kind == "const"}
        self._constants = Constants(self.graph.store, used, program.packing, codes[0], packing, self.threads)
        self._interface = interface_buffers(program)
        segments = [p for p in program.parts if isinstance(p, Segment)]
        self._native = {id(s): _Native(s, c, e, self) for s, c, e in zip(segments, codes[1:], native)}
        self._output_types = [v.type for v in self.graph.outputs]

    # running

    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int], *, numpy: bool = False) -> list[Array]:
        call = _Call(self, inputs, dict(symbols), numpy)
        for part in self._program.parts:
            if isinstance(part, Segment):
                self._native[id(part)].run(call)
            else:
                call.torch(part)
        return call.results()

    def bind(self, inputs: Sequence[Array], symbols: Mapping[str, int]) -> Bound:
        if len(self._native) == 1 and len(self._program.parts) == 1:
            return NativeBound(self, inputs, symbols)
        return super().bind(inputs, symbols)

    # describing

    def kernels(self, symbols: Mapping[str, int]) -> list[KernelInfo]:
        found = []
        values = self._assumed(symbols)
        for part in self._program.parts:
            steps: Sequence[KernelStep | TorchStep] = part.steps if isinstance(part, Segment) else [part]
            found += [_info(step, values) for step in steps]
        return found

    def profile(self, inputs: Sequence[Array], symbols: Mapping[str, int], repeats: int = 10) -> list[float]:
        rounds = []
        for _ in range(max(1, repeats) + 1):
            call = _Call(self, inputs, dict(symbols), False)
            times: list[float] = []
            for part in self._program.parts:
                if isinstance(part, Segment):
                    times += self._native[id(part)].profile(call)
                else:
                    start = time.perf_counter()
                    call.torch(part)
                    times.append((time.perf_counter() - start) * 1e6)
            rounds.append(times)
        return [statistics.median(t) for t in zip(*rounds[1:])]

    def source(self) -> str:
        return self._code.source

    def binaries(self) -> dict[str, bytes]:
        return {self._code.isa: self._code.library.content}

    def export_c(self, folder: Path, interface: Interface) -> list[Path]:
        from mcomp.backends.cpu.export_c import export_c

        return export_c(self._program, self._codes, self._code, folder, interface)

    @property
    def isa(self) -> str:
        """The instruction set that the code was compiled for."""
        return self._code.isa

    @property
    def packed_bytes(self) -> int:
        """Bytes of packed constants."""
        return self._constants.packed_bytes

    def arena_bytes(self, symbols: Mapping[str, int]) -> int:
        values = self._assumed(symbols)
        total = sum(n.plan(values).arena_bytes for n in self._native.values())
        return total + sum(_bytes(b, values) for b in self._interface)

    def _assumed(self, symbols: Mapping[str, int]) -> dict[str, int]:
        """Values for all symbols: those that only data decides are taken as their lower bound."""
        return {s: symbols.get(s, max(1, b.low)) for s, b in self.graph.symbols.items()}

    def fault(self, segment: Segment, step: int) -> IndexFault:
        """The error for bad data met at a step (counted from 1)."""
        node = segment.steps[step - 1].node
        if node is None:
            return IndexFault("bad data was met while running")
        return IndexFault(
            f"{node.op.name}: an index is out of range, or a whole number was divided by zero",
            where=str(node.loc) or node.layer, ir=repr(node), help="check the values of the indices passed",
        )


class _Native:
    """A native segment with its plans by size."""

    def __init__(self, segment: Segment, code: SegmentCode, entry: Entry, owner: CpuExecutable) -> None:
        self.segment, self.code, self.entry, self.owner = segment, code, entry, owner
        self._plans: OrderedDict[tuple[int, ...], SegmentPlan] = OrderedDict()
        arena = set(code.arena)
        self.outside = [
            (i, b) for i, b in enumerate(segment.buffers) if b not in arena and b.kind not in ("const", "packed")
        ]

    def plan(self, values: Mapping[str, int]) -> SegmentPlan:
        names = self.owner._program.symbols
        key = tuple(values.get(s, 0) for s in names)
        found = self._plans.get(key)
        if found is None:
            found = SegmentPlan(self.segment, self.code, self.entry, list(key), values, self.owner.threads,
                                self.owner._constants.addresses)
            self._plans[key] = found
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return found

    def run(self, call: _Call) -> None:
        plan = self.plan(call.symbols)
        frame = plan.frame()
        slots = frame.slots
        for slot, buffer in self.outside:
            slots[slot] = call.address(buffer)
        fault = self.entry.run(frame.address, plan.numbers_address, plan.threads)
        plan.give_back(frame)
        if fault:
            raise self.owner.fault(self.segment, fault)

    def profile(self, call: _Call) -> list[float]:
        plan = self.plan(call.symbols)
        frame = plan.frame()
        for slot, buffer in self.outside:
            frame.slots[slot] = call.address(buffer)
        fault, times = self.entry.profile(frame.address, plan.numbers_address, plan.threads, len(self.segment.steps))
        plan.give_back(frame)
        if fault:
            raise self.owner.fault(self.segment, fault)
        return times


class _Call:
    """One call: the arrays that live outside of arenas, by buffer."""

    def __init__(self, owner: CpuExecutable, inputs: Sequence[Array], symbols: dict[str, int], numpy: bool) -> None:
        self.owner, self.symbols, self.numpy = owner, symbols, numpy
        self.inputs = [contiguous(x) for x in inputs]
        self.outputs: list[Any] = [None] * len(owner._output_types)
        self.between: dict[Buffer, Any] = {}

    def array(self, buffer: Buffer) -> Any:
        if buffer.kind == "input":
            return self.inputs[buffer.index]
        if buffer.kind == "output":
            if self.outputs[buffer.index] is None:
                type = self.owner._output_types[buffer.index]
                self.outputs[buffer.index] = empty(self.shape(type), type.dtype, numpy=self.numpy)
            return self.outputs[buffer.index]
        if buffer.kind == "const":
            assert buffer.source is not None
            return self.owner._constants.array(buffer.source)
        if buffer not in self.between:
            self.between[buffer] = aligned_bytes(_bytes(buffer, self.symbols))
        return self.between[buffer]

    def address(self, buffer: Buffer) -> int:
        return address(self.array(buffer))

    def shape(self, type: Type) -> tuple[int, ...]:
        if not isinstance(type, TensorType):
            return ()
        return tuple(size_of(d, self.symbols) for d in type.shape)

    def results(self) -> list[Array]:
        found = []
        for i, (array, type) in enumerate(zip(self.outputs, self.owner._output_types)):
            if array is None:
                array = empty(self.shape(type), type.dtype, numpy=self.numpy)
                self.outputs[i] = array
            if not isinstance(type, TensorType):
                found.append(array if isinstance(array, (bool, int, float)) else array.item())
            else:
                found.append(as_numpy(array) if self.numpy else array)
        return found

    # torch

    def torch(self, step: TorchStep) -> None:
        """Run a node in torch; results are kept apart from everything that was there before."""
        import torch

        from mcomp.ops.evaluate import run_node

        with torch.no_grad():
            results = run_node(step.node, [self._given(step.node, i, x) for i, x in enumerate(step.inputs)], self.symbols)
        for place, result in zip(step.outputs, results):
            if isinstance(place, EncodedAccess):
                for name, access in place.parts:
                    self._keep(access.buffer, result.parts[name])
            else:
                self._keep(place.buffer, result)

    def _given(self, node: Node, index: int, place: Access | EncodedAccess | None) -> Any:
        if place is None:
            return None
        if isinstance(place, EncodedAccess):
            from mcomp.ops.encoded import Encoded

            value: Value = node.operand(index)
            return Encoded(value.tensor, {name: self._tensor(access) for name, access in place.parts})
        return self._tensor(place)

    def _tensor(self, access: Access) -> Any:
        shape = [size_of(d, self.symbols) for d in access.shape]
        return as_tensor(self.array(access.buffer), access.dtype, shape)

    def _keep(self, buffer: Buffer, tensor: Any) -> None:
        if isinstance(tensor, (bool, int, float)):
            import torch

            tensor = torch.tensor(tensor)
        held = contiguous(tensor)
        if buffer.kind == "output":
            self.outputs[buffer.index] = held.clone() if held is tensor or held._is_view() else held
        else:
            self.between[buffer] = held


class NativeBound(Bound):
    """A call with everything fixed: frame, inputs, outputs. Calling it runs the native code and nothing else."""

    def __init__(self, executable: CpuExecutable, inputs: Sequence[Array], symbols: Mapping[str, int]) -> None:
        self.inputs = list(inputs)
        numpy = all(isinstance(x, np.ndarray) for x in inputs) and bool(inputs)
        self._call = _Call(executable, inputs, dict(symbols), numpy)
        native, = executable._native.values()
        plan = native.plan(symbols)
        self._frame = plan.frame()
        for slot, buffer in native.outside:
            self._frame.slots[slot] = self._call.address(buffer)
        self.outputs = self._call.results()
        self._native, self._plan = native, plan
        self._stale = [(x, y) for x, y in zip(self.inputs, self._call.inputs) if x is not y]
        self._run, self._slots = native.entry.run, self._frame.address
        self._numbers, self._threads = plan.numbers_address, plan.threads
        self()

    def __call__(self) -> None:
        for given, copy in self._stale:
            copy[...] = given
        fault = self._run(self._slots, self._numbers, self._threads)
        if fault:
            raise self._native.owner.fault(self._native.segment, fault)


def available_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bytes(buffer: Buffer, values: Mapping[str, int]) -> int:
    assert not isinstance(buffer.bytes, Computed)
    return size_of(buffer.bytes, values)


def _info(step: KernelStep | TorchStep, values: Mapping[str, int]) -> KernelInfo:
    node, work = step.node, step.work
    native = isinstance(step, KernelStep)
    ops = step.ops if isinstance(step, KernelStep) else (step.node.op.name,)
    name = step.kernel.name if isinstance(step, KernelStep) else step.node.op.name
    numbers = [_evaluated(d, values) for d in (work.flops, work.read, work.write)]
    layers = () if node is None else node.loc.paths
    names = () if node is None else tuple(v.name for v in node.results)
    constants = 0 if node is None else sum(size_of(v.tensor.nbytes, {}) for v in node.operands if v and v.is_const)
    return KernelInfo(name, ops, layers, native, numbers[0], numbers[1], numbers[2], names, _compute(step), constants)


def _compute(step: KernelStep | TorchStep) -> str:
    """The element type of a step's products."""
    if isinstance(step, TorchStep):
        result = step.node.results[0].type if step.node.results else None
        return "f32" if result is None else result.dtype.name
    if step.kernel.name.endswith("_i8"):
        return "i8"
    source = next((p for p in step.kernel.pointers if p.name in ("a", "x", "q", "p0")), None)
    return "f32" if source is None else source.access.dtype.name


def _evaluated(dim: Dim, values: Mapping[str, int]) -> int:
    return size_of(dim, {**dict.fromkeys(dims.symbols(dim), 1), **values})


