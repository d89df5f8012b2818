"""Running lowered programs on a device, in frames of memory that no two calls share at a time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcomp.backend import Array, Executable, KernelInfo
from mcomp.backends.triton.access import Buffer
from mcomp.backends.triton.aot import job_of, jobs_of, launches_of
from mcomp.backends.triton.constants import constant_tensor
from mcomp.backends.triton.device import Device
from mcomp.backends.triton.frame import Frame, Ready
from mcomp.backends.triton.modules import load_source, source_of
from mcomp.backends.triton.plan import size_of
from mcomp.backends.triton.program import Choice, Config, Launch, Program, TorchStep
from mcomp.backends.triton.ship import packed
from mcomp.backends.triton.tune import Tuner
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType

_KEPT_PLANS = 64


class TritonExecutable(Executable):
    """A program on a device. Calls from several threads run side by side, each in a frame of its own; on a CUDA device
    they are queued on the caller's current stream."""

    devices = ("cpu", "cuda")
    suffix = ".py"

    def __init__(
        self, program: Program, device: Device, tuner: Tuner | None = None, *, record: bool = True, arch: int | None = None,
        shipped: Path | None = None, hints: Mapping[str, int] | None = None,
    ) -> None:
        """`record`: replay launches as CUDA graphs. `arch`: the chip that `binaries` compiles for, at the sizes `hints`.
        `shipped`: a folder with kernels compiled ahead of time."""
        self.graph = program.graph
        self.arch, self.shipped, self.hints = arch, shipped, dict(hints or {})
        self.program = program
        self.device = device
        self.records = record
        self.tuner = tuner
        self._source = source_of(program.launches(), layers=True)
        self._functions: dict[str, Any] = {}
        self._constants: dict[Buffer, Any] = {}
        self._ready: dict[tuple[int, ...], Ready] = {}
        self.started: set[tuple[str, Config]] = set()
        """Kernels that were launched, where shipped ones are looked for at their first launch."""
        self._symbols = tuple(sorted(self.graph.symbols))

    # running

    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int], *, numpy: bool = False) -> list[Array]:
        ready = self.ready(symbols)
        frame = ready.take()
        try:
            return frame.run(inputs, dict(symbols), numpy=numpy)
        finally:
            ready.give_back(frame)

    def ready(self, symbols: Mapping[str, int]) -> Ready:
        """What runs for these sizes."""
        key = tuple(symbols.get(s, -1) for s in self._symbols)
        found = self._ready.get(key)
        if found is None:
            found = Ready(self, self.steps(symbols), dict(symbols))
            if len(self._ready) >= _KEPT_PLANS:
                self._ready.pop(next(iter(self._ready)), None)
            self._ready[key] = found
        return found

    def steps(self, symbols: Mapping[str, int]) -> list[Launch | TorchStep]:
        """The steps for these sizes, with every choice made."""
        values = self._assumed(symbols)
        found: list[Launch | TorchStep] = []
        for step in self.program.steps:
            if isinstance(step, Choice):
                found += step.ways[self._choice(step, values)][1]
            else:
                found.append(step)
        return found

    def _choice(self, step: Choice, values: Mapping[str, int]) -> int:
        sizes = {name: dims.evaluate(d, values) for name, d in step.sizes}
        if self.tuner is None:
            return step.default(sizes, self.device.chip)

        def milliseconds(way: int) -> float:
            frame = Frame(Ready(self, step.ways[way][1], dict(values)))
            return self.device.milliseconds(lambda: frame.only_steps(values))

        return self.tuner.way(step, sizes, milliseconds)

    def config(self, launch: Launch, sizes: Mapping[str, int], run: Callable[[Config], None]) -> Config:
        """The configuration of a launch for given sizes; `run` launches it, to be measured."""
        if self.tuner is not None:
            return self.tuner.config(launch, sizes, run)
        return launch.configs(sizes, self.device.chip)[0]

    def function(self, launch: Launch) -> Any:
        """The function of a launch. Each kernel is a module of its own: Triton knows compiled kernels by their line too, and
        so finds those that other models, or compiling ahead of time, left in its cache."""
        if launch.name not in self._functions:
            self._functions[launch.name] = getattr(load_source(source_of([launch])), launch.name)
        return self._functions[launch.name]

    def constant(self, buffer: Buffer) -> Any:
        """A constant on the device."""
        if buffer not in self._constants:
            assert buffer.source is not None
            tensor = constant_tensor(self.graph.store, buffer.source)
            self._constants[buffer] = tensor.to(self.device.torch_device).reshape(-1)
        return self._constants[buffer]

    # describing

    def kernels(self, symbols: Mapping[str, int]) -> list[KernelInfo]:
        values = self._assumed(symbols)
        return [_info(step, values) for step in self.steps(symbols)]

    def profile(self, inputs: Sequence[Array], symbols: Mapping[str, int], repeats: int = 10) -> list[float]:
        frame = Frame(self.ready(symbols), self.device.stream())
        rounds = [frame.profile(inputs, dict(symbols)) for _ in range(max(1, -(-repeats // self.device.turns)))]
        return [statistics.median(t) for t in zip(*rounds)]

    def source(self) -> str:
        return self._source

    def binaries(self) -> dict[str, bytes]:
        """Kernels compiled ahead of time for `arch`, where one was asked for or the device has one."""
        import tempfile

        here = self.device.chip.arch
        arch = self.arch or here
        if not arch:
            return {}
        values = self._assumed(self.hints)
        if arch == here:
            launches = [s for s in self.steps(values) if isinstance(s, Launch)]
            listed = [job_of(launch, *self._settled(launch, values), arch) for launch in launches]
        else:
            listed = [job for *_, job in jobs_of(launches_of(self.program, values, arch), values, arch)]
        with tempfile.TemporaryDirectory() as folder:
            return {f"sm_{arch}": packed(listed, Path(folder))}

    def _settled(self, launch: Launch, values: Mapping[str, int]) -> tuple[Config, tuple[int, ...]]:
        """The configuration that a launch has on this device at given sizes, without measuring; and its numbers."""
        numbers = {name: size_of(d, values) for name, d in launch.numbers}
        sizes = {**numbers, **{name: size_of(d, values) for name, d in launch.sizes}}
        if self.tuner is not None:
            return self.tuner.settled(launch, sizes), tuple(numbers.values())
        return launch.configs(sizes, self.device.chip)[0], tuple(numbers.values())

    def arena_bytes(self, symbols: Mapping[str, int]) -> int:
        return self.ready(symbols).plan.nbytes

    def _assumed(self, symbols: Mapping[str, int]) -> dict[str, int]:
        """Values for all symbols: those that only data decides are taken as their lower bound."""
        return {s: symbols.get(s, max(1, b.low)) for s, b in self.graph.symbols.items()}


def _info(step: Launch | TorchStep, values: Mapping[str, int]) -> KernelInfo:
    node, work = step.node, step.work
    native = isinstance(step, Launch) or step.library
    ops = step.ops if isinstance(step, Launch) else (step.node.op.name,)
    name = step.name if isinstance(step, Launch) else step.node.op.name
    flops, read, write = (_evaluated(d, values) for d in (work.flops, work.read, work.write))
    layers = () if node is None else node.loc.paths
    names = () if node is None else tuple(v.name for v in node.results)
    held = 0
    for value in () if node is None else node.operands:
        if value is not None and value.is_const and isinstance(value.type, TensorType):
            held += _evaluated(value.type.nbytes, values)
    compute = "f32" if work.compute == "scalar" else work.compute
    return KernelInfo(name, ops, layers, native, flops, read, write, names, compute, min(held, read))


def _evaluated(dim: Dim, values: Mapping[str, int]) -> int:
    try:
        return dims.evaluate(dim, {**dict.fromkeys(dims.symbols(dim), 1), **values})
    except ZeroDivisionError:
        return 0
