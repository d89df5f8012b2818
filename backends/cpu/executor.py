"""Running lowered programs: native segments and torch steps in order, on the caller's arrays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mcomp.backend import Array, Bound, Executable, Interface, KernelInfo
from mcomp.backends.cpu.access import Access, Buffer, aligned_bytes
from mcomp.backends.cpu.arrays import address, as_numpy, as_tensor, contiguous, empty
from mcomp.backends.cpu.constants import Constants, constant_array
from mcomp.backends.cpu.cxx import Computed
from mcomp.backends.cpu.emit import SegmentCode, interface_buffers, part_buffers
from mcomp.backends.cpu.kernel import EncodedAccess, KernelStep, Program, Segment, TorchStep
from mcomp.backends.cpu.library import Library
from mcomp.backends.cpu.plan import Region, size_of
from mcomp.backends.cpu.running import IndexFault, Native, NativeBound, Solo, index_fault
from mcomp.backends.cpu.schedule import compute_type, work_of_step
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node
from mcomp.ir.types import TensorType, Type
from mcomp.runtime.sizes import SizeChecks
from mcomp.threads import available_threads


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
        self.symbols = program.symbols
        self.data_sizes = SizeChecks(self.graph, data=True)
        """What generated code relies on of sizes that only values tell."""
        self._program = program
        self._code, self._codes = code, codes
        self._regions = [region_of(s, c) for s, c in zip(program.segments, codes)]
        packing, *native = (code.library.entry(c.prefix) for c in codes)
        used = {b: None for part in program.parts for b in part_buffers(part) if b.kind == "const"}
        read = partial(constant_array, self.graph.store)
        self._constants = Constants(read, used, self._regions[0], packing, self.threads)
        self._interface = interface_buffers(program)
        segments = [p for p in program.parts if isinstance(p, Segment)]
        self._native = {id(s): Native(r, e, self) for s, r, e in zip(segments, self._regions[1:], native)}
        self._output_types = [v.type for v in self.graph.outputs]
        self._solo: Solo | None = None
        if len(segments) == 1 == len(program.parts) and Solo.fits(self._regions[1], self._output_types):
            self._solo = Solo(self._native[id(segments[0])], [v.tensor for v in self.graph.outputs])

    # running

    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int], *, numpy: bool = False) -> list[Array]:
        if self._solo is not None:
            return self._solo.run(inputs, symbols, numpy=numpy)
        call = _Call(self, inputs, dict(symbols), numpy)
        for part in self._program.parts:
            if isinstance(part, Segment):
                self._native[id(part)].run(call.address, call.symbols)
            else:
                call.torch(part)
        return call.results()

    def bind(self, inputs: Sequence[Array], symbols: Mapping[str, int]) -> Bound:
        if self._solo is not None:
            return NativeBound(self._solo, inputs, symbols)
        return super().bind(inputs, symbols)

    def addresses(self) -> Mapping[Buffer, int]:
        """Where constants lie."""
        return self._constants.addresses

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
                    times += self._native[id(part)].profile(call.address, call.symbols)
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

    def recipe(self) -> str:
        from mcomp.backends.cpu.recipe import recipe_text

        if self._solo is None:
            return ""
        types = [v.tensor for v in self.graph.outputs]
        labels = [_label(step.node) for step in self._program.segments[1].steps]
        return recipe_text(self._regions, self.symbols, types, self._code.isa, self._code.library.key(), labels)

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

    def fault(self, region: Region, step: int) -> IndexFault:
        """The error for bad data met at a step (counted from 1)."""
        segment = self._program.segments[self._regions.index(region)]
        return index_fault(*_label(segment.steps[step - 1].node))


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
            before = len(self.symbols)
            results = run_node(step.node, [self._given(x) for x in step.inputs], self.symbols)
            if len(self.symbols) > before:
                self.owner.data_sizes.check(self.symbols)
        for place, result in zip(step.outputs, results):
            if isinstance(place, EncodedAccess):
                for name, access in place.parts:
                    self._keep(access.buffer, result.parts[name])
            else:
                self._keep(place.buffer, result)

    def _given(self, place: Access | EncodedAccess | None) -> Any:
        if place is None:
            return None
        if isinstance(place, EncodedAccess):
            from mcomp.ops.encoded import Encoded

            return Encoded(place.type, {name: self._tensor(access) for name, access in place.parts})
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


def _label(node: Node | None) -> tuple[str, str, str]:
    return ("", "", "") if node is None else (node.op.name, str(node.loc) or node.layer, repr(node))


def region_of(segment: Segment, code: SegmentCode) -> Region:
    """What running a segment's code takes."""
    work: Dim = 0
    for step in segment.steps:
        work = dims.add(work, work_of_step(step))
    arena = tuple(segment.slot(b) for b in code.arena)
    return Region(code.prefix, code.number_count, len(segment.steps), tuple(segment.buffers), arena, code.phases, work)


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
    held = min(constants, numbers[1])
    return KernelInfo(name, ops, layers, native, numbers[0], numbers[1], numbers[2], names, _compute(step), held)


def _compute(step: KernelStep | TorchStep) -> str:
    """The element type of a step's products."""
    if isinstance(step, TorchStep):
        result = step.node.results[0].type if step.node.results else None
        return "f32" if result is None else result.dtype.name
    return compute_type(step)


def _evaluated(dim: Dim, values: Mapping[str, int]) -> int:
    return size_of(dim, {**dict.fromkeys(dims.symbols(dim), 1), **values})


