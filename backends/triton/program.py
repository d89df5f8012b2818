"""What lowering gives: a program of launches, torch steps and choices between ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcomp.backends.triton.access import Buffer, Place, View
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Graph, Node

Numbers = Mapping[str, int]
"""Sizes of one launch by their names in the kernel."""


@dataclass(frozen=True)
class Config:
    """How a kernel is compiled and cut into programs. `metas`: its constexpr parameters by name."""

    metas: tuple[tuple[str, int], ...]
    warps: int = 4
    stages: int = 1

    def __getitem__(self, name: str) -> int:
        return dict(self.metas)[name]

    def __str__(self) -> str:
        return " ".join(f"{n}={v}" for n, v in (*self.metas, ("warps", self.warps), ("stages", self.stages)))


def config(warps: int = 4, stages: int = 1, **metas: int) -> Config:
    """A configuration by keywords."""
    return Config(tuple(metas.items()), warps, stages)


@dataclass(frozen=True)
class Chip:
    """What choosing depends on. `arch`: compute capability times ten; 0 for the interpreter. `shared`: bytes of shared
    memory for one program. `cores`: multiprocessors."""

    arch: int
    shared: int
    cores: int

    @property
    def interpreted(self) -> bool:
        return self.arch == 0


INTERPRETER = Chip(0, 1 << 20, 1)
CHIPS = {80: Chip(80, 163 << 10, 108), 86: Chip(86, 99 << 10, 84), 89: Chip(89, 99 << 10, 128), 90: Chip(90, 227 << 10, 132)}
"""Known chips by compute capability; CUDA programming guide, table of technical specifications."""


def chip_of(arch: int) -> Chip:
    """The chip of a compute capability; one that is not known counts as the nearest older one."""
    known = [a for a in CHIPS if a <= arch]
    base = CHIPS[max(known)] if known else CHIPS[86]
    return Chip(arch, base.shared, base.cores)


Configs = Callable[[Numbers, Chip], list[Config]]
"""Configurations to try for given sizes, the one that the cost model likes best first."""
Grid = Callable[[Numbers, Config], tuple[int, ...]]


@dataclass(frozen=True)
class Work:
    """Operations and bytes of one call; `compute` is the element type of the products, `scalar` where there are none."""

    flops: Dim = 0
    read: Dim = 0
    write: Dim = 0
    compute: str = "scalar"


@dataclass(eq=False)
class Launch:
    """One kernel with what it is called with. `text`: the generated source, in which the function has the name `name`.

    `pointers`: buffers in the order of the kernel's parameters. `numbers`: sizes by parameter name. `sizes`: further sizes
    that `grid` and `configs` need. `fault`: whether the kernel takes the fault word, as its last pointer.
    """

    name: str
    text: str
    pointers: tuple[tuple[str, Buffer, Any], ...]
    numbers: tuple[tuple[str, Dim], ...]
    sizes: tuple[tuple[str, Dim], ...]
    metas: tuple[str, ...]
    grid: Grid
    configs: Configs
    writes: tuple[Buffer, ...]
    node: Node | None = None
    work: Work = field(default_factory=Work)
    ops: tuple[str, ...] = ()
    fault: bool = False
    kind: str = "pointwise"
    dtypes: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers that it reads (a buffer that it also writes is among them only if it is not written alone)."""
        return tuple(b for _, b, _ in self.pointers if b not in self.writes)


@dataclass(eq=False)
class TorchStep:
    """A node that torch runs. Operands and results where they are; `library`: whether it stands for a kernel of a library
    that competes with ours, instead of for one that we lack."""

    node: Node
    inputs: list[Place | None]
    outputs: list[Place]
    work: Work = field(default_factory=Work)
    library: bool = False
    call: Callable[..., Any] | None = None
    """What runs instead of the node's operator: `call(*tensors)` gives the results."""
    into: Callable[..., object] | None = None
    """What runs instead of both and needs no copy: `into(*tensors, out=tensor)` writes the only result to given memory."""


@dataclass(eq=False)
class Choice:
    """Several ways to compute the same, of which sizes or measurements decide. `default(sizes, chip)`: the way that the
    cost model likes best. `most`: ways that are tried for up to so many `rows` only, by name."""

    ways: tuple[tuple[str, tuple[Launch | TorchStep, ...]], ...]
    sizes: tuple[tuple[str, Dim], ...]
    default: Callable[[Numbers, Chip], int]
    most: Mapping[str, int] = field(default_factory=dict)

    def tried(self, sizes: Numbers) -> list[str]:
        """The names of the ways that are worth a try at these sizes."""
        rows = sizes.get("rows", 0)
        return [name for name, _ in self.ways if name not in self.most or rows <= self.most[name]]


Step = Launch | TorchStep | Choice


@dataclass(eq=False)
class Program:
    """A lowered graph."""

    graph: Graph
    steps: list[Step]
    inputs: list[Buffer]
    outputs: list[View]
    places: dict[str, Place] = field(default_factory=dict)

    def launches(self) -> Sequence[Launch]:
        """All launches, of every way."""
        found: list[Launch] = []
        for step in self.steps:
            if isinstance(step, Launch):
                found.append(step)
            elif isinstance(step, Choice):
                found += [s for _, way in step.ways for s in way if isinstance(s, Launch)]
        return found
