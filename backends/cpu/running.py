"""Running compiled code on the caller's arrays. Light to import: loading a compiled model needs this and no lowering."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mcomp.backend import Array, Bound
from mcomp.backends.cpu.access import Buffer
from mcomp.backends.cpu.arrays import address, contiguous
from mcomp.backends.cpu.library import Entry
from mcomp.backends.cpu.plan import Region, SegmentPlan, size_of
from mcomp.errors import CallError
from mcomp.ir.types import TensorType

_PLANS_KEPT = 32


class IndexFault(CallError, IndexError):
    """An index out of range, or a division of whole numbers by zero, met while running."""

    default_code = "MC0405"


def index_fault(op: str, where: str, ir: str) -> IndexFault:
    """The error for bad data met by an operator; all empty for a step that has none."""
    if not op:
        return IndexFault("bad data was met while running")
    return IndexFault(
        f"{op}: an index is out of range, or a whole number was divided by zero", where=where, ir=ir,
        help="check the values of the indices passed",
    )


class Owner(Protocol):
    """What a region asks of the executable it belongs to."""

    threads: int
    symbols: tuple[str, ...]

    def addresses(self) -> Mapping[Buffer, int]:
        """Where constants lie."""

    def fault(self, region: Region, step: int) -> IndexFault:
        """The error for bad data met at a step (counted from 1)."""


class Native:
    """A region with its plans by size."""

    def __init__(self, region: Region, entry: Entry, owner: Owner) -> None:
        self.region, self.entry, self.owner = region, entry, owner
        self._plans: OrderedDict[tuple[int, ...], SegmentPlan] = OrderedDict()

    def plan(self, values: Mapping[str, int]) -> SegmentPlan:
        key = tuple([values.get(s, 0) for s in self.owner.symbols])
        found = self._plans.get(key)
        if found is None:
            found = SegmentPlan(
                self.region, self.entry, list(key), values, self.owner.threads, self.owner.addresses()
            )
            self._plans[key] = found
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return found

    def run(self, place: Callable[[Buffer], int], symbols: Mapping[str, int]) -> None:
        """Run with the buffers outside of the arena at `place`."""
        plan = self.plan(symbols)
        frame = plan.frame()
        slots = frame.slots
        for slot, buffer in self.region.outside:
            slots[slot] = place(buffer)
        fault = self.entry.run(frame.address, plan.numbers_address, plan.threads)
        plan.give_back(frame)
        if fault:
            raise self.owner.fault(self.region, fault)

    def profile(self, place: Callable[[Buffer], int], symbols: Mapping[str, int]) -> list[float]:
        """As `run`; microseconds of every step."""
        plan = self.plan(symbols)
        frame = plan.frame()
        for slot, buffer in self.region.outside:
            frame.slots[slot] = place(buffer)
        fault, times = self.entry.profile(frame.address, plan.numbers_address, plan.threads, self.region.step_count)
        plan.give_back(frame)
        if fault:
            raise self.owner.fault(self.region, fault)
        return times


class Solo:
    """A program that is one region between inputs and outputs, all of them tensors."""

    def __init__(self, native: Native, outputs: Sequence[TensorType]) -> None:
        self.native = native
        self._outputs = tuple(outputs)
        self._numpy_kinds = [t.dtype.numpy for t in outputs]
        self._torch_kinds: list[Any] = []
        self._torch_empty: Any = None
        self._given = tuple((slot, b.index) for slot, b in native.region.outside if b.kind == "input")
        self._made = tuple((slot, b.index) for slot, b in native.region.outside if b.kind == "output")

    @staticmethod
    def fits(region: Region, outputs: Sequence[object]) -> bool:
        """Whether a region can be run so."""
        return all(b.kind in ("input", "output") for _, b in region.outside) and all(
            isinstance(t, TensorType) for t in outputs
        )

    def fresh(self, plan: SegmentPlan, symbols: Mapping[str, int], *, numpy: bool) -> list[Array]:
        """New arrays for the outputs."""
        if plan.output_shapes is None:
            plan.output_shapes = [tuple(size_of(d, symbols) for d in t.shape) for t in self._outputs]
        if numpy:
            return [np.empty(shape, kind) for shape, kind in zip(plan.output_shapes, self._numpy_kinds)]
        if self._torch_empty is None:
            import torch

            from mcomp.ir.dtypes import to_torch

            self._torch_kinds = [to_torch(t.dtype) for t in self._outputs]
            self._torch_empty = torch.empty
        make = self._torch_empty
        return [make(shape, dtype=kind) for shape, kind in zip(plan.output_shapes, self._torch_kinds)]

    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int], *, numpy: bool) -> list[Array]:
        """See `Executable.run`."""
        native = self.native
        plan = native.plan(symbols)
        outputs = self.fresh(plan, symbols, numpy=numpy)
        held = [contiguous(x) for x in inputs]
        frame = plan.frame()
        self.fill(frame.slots, held, outputs)
        fault = native.entry.run(frame.address, plan.numbers_address, plan.threads)
        plan.give_back(frame)
        if fault:
            raise native.owner.fault(native.region, fault)
        return outputs

    def fill(self, slots: Any, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Write the addresses of inputs and outputs to their slots."""
        for slot, index in self._given:
            slots[slot] = address(inputs[index])
        for slot, index in self._made:
            slots[slot] = address(outputs[index])


class NativeBound(Bound):
    """A call with everything fixed: frame, inputs, outputs. Calling it runs the native code and nothing else."""

    def __init__(self, solo: Solo, inputs: Sequence[Array], symbols: Mapping[str, int]) -> None:
        self.inputs = list(inputs)
        held = [contiguous(x) for x in inputs]
        numpy = all(isinstance(x, np.ndarray) for x in inputs) and bool(inputs)
        plan = solo.native.plan(symbols)
        self.outputs = solo.fresh(plan, symbols, numpy=numpy)
        self._frame = plan.frame()
        solo.fill(self._frame.slots, held, self.outputs)
        self._held, self._plan, self._native = held, plan, solo.native
        self._stale = [(x, y) for x, y in zip(self.inputs, held) if x is not y]
        self._run, self._slots = solo.native.entry.run, self._frame.address
        self._numbers, self._threads = plan.numbers_address, plan.threads
        self()

    def __call__(self) -> None:
        for given, copy in self._stale:
            copy[...] = given
        fault = self._run(self._slots, self._numbers, self._threads)
        if fault:
            raise self._native.owner.fault(self._native.region, fault)
