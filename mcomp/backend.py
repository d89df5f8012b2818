"""What a backend is: it lowers a graph to something that runs. Backends register themselves; see `mcomp.plugins`."""

from __future__ import annotations

import difflib
import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mcomp.errors import BackendError
from mcomp.scalars import whole_number

if TYPE_CHECKING:
    import numpy as np

    from mcomp.ir.graph import Graph, Node
    from mcomp.ir.store import Weight
    from mcomp.manager.context import Context
    from mcomp.plan.profile import DeviceProfile

Array = Any
"""A torch.Tensor on the CPU or a numpy.ndarray."""


@dataclass(frozen=True, slots=True)
class Declined:
    """Why a lowering does not take a node, and what would make it."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class CompileOptions:
    """How to compile. `isa`: an instruction set of the backend (None: the best this machine has). `threads`: None for
    all cores. `hints`: likely values of symbols, to choose kernels for. `cache`: whether compiled code is kept on
    disk."""

    isa: str | None = None
    threads: int | None = None
    hints: Mapping[str, int] = field(default_factory=dict)
    cache: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "threads", whole_number(self.threads))
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads is True or self.threads < 1):
            raise BackendError(f"threads is {self.threads!r}; it must be a whole number, 1 or more", code="MC0211",
                               help="write threads=4, or leave it out for all cores")


@dataclass(frozen=True)
class KernelInfo:
    """One kernel of a compiled graph. Sizes are for the symbol values asked about.

    `layers`: module paths it computes. `ops`: names of the operators inside. `native`: False where torch runs it.
    `flops`, `read`, `write`: operations and bytes of one call; `weights`: how many of the bytes read are constants.
    `nodes`: names of the results it makes. `compute`: the element type of its products (`f32`, `bf16`, `i8`).
    """

    name: str
    ops: tuple[str, ...]
    layers: tuple[str, ...]
    native: bool
    flops: int
    read: int
    write: int
    nodes: tuple[str, ...] = ()
    compute: str = "f32"
    weights: int = 0


@dataclass(frozen=True)
class Stored:
    """What an artifact keeps of an executable, read as it is asked for. The caller vouches for recipe and code.

    `code`: compiled code by instruction set, empty where there is none. `array`: a weight's part by digest and name.
    `weight`: a whole weight. `whole`: the executable made from the graph, as if there were no recipe.
    """

    recipe: str
    code: Callable[[str], bytes]
    source: Callable[[], str]
    array: Callable[[str, str], np.ndarray]
    weight: Callable[[str], Weight]
    whole: Callable[[], Executable]


@dataclass(frozen=True)
class Interface:
    """What an exported library calls things: itself, and the inputs and outputs in the graph's order. All are identifiers
    of C."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Executable(ABC):
    """A compiled graph. Safe to call from several threads at once."""

    graph: Graph
    """The graph of kernels, as it runs."""
    devices: tuple[str, ...] = ("cpu",)
    """Kinds of torch devices whose tensors it takes; results are where the arguments are."""
    suffix: str = ".cpp"
    """What the name of a file with its source ends in."""

    @abstractmethod
    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int], *, numpy: bool = False) -> list[Array]:
        """Run on inputs in the order of `graph.inputs` (right shapes and dtypes, any strides) and return fresh outputs
        in the order of `graph.outputs`, as torch tensors or numpy arrays (bf16 and fp8 as their bits). `symbols` gives
        every symbol that the inputs determine. Outputs alias neither inputs nor internal memory."""

    @abstractmethod
    def kernels(self, symbols: Mapping[str, int]) -> list[KernelInfo]:
        """The kernels in the order they run."""

    @abstractmethod
    def profile(self, inputs: Sequence[Array], symbols: Mapping[str, int], repeats: int = 10) -> list[float]:
        """Median microseconds of each kernel, in the order of `kernels`."""

    def bind(self, inputs: Sequence[Array], symbols: Mapping[str, int]) -> Bound:
        """Fix inputs and outputs; the default runs and copies."""
        return Bound(self, inputs, symbols)

    def source(self) -> str:
        """The generated source, for people; empty where there is none."""
        return ""

    def arena_bytes(self, symbols: Mapping[str, int]) -> int:
        """Bytes of memory for intermediate results."""
        return 0

    def binaries(self) -> dict[str, bytes]:
        """Compiled code by instruction set, to be kept in an artifact."""
        return {}

    def recipe(self) -> str:
        """What running the code of `binaries` takes beside the weights, as JSON, to be kept in an artifact with it; empty
        where the graph must be lowered again. The backend's reviver reads it; see `mcomp.plugins.reviver`."""
        return ""

    def export_c(self, folder: Path, interface: Interface) -> list[Path]:
        """Write a C library to an existing folder; see `mcomp.runtime.export_c`. Raises BackendError when this executable
        does not consist of generated code alone."""
        raise BackendError("this target generates no code that could be exported", code="MC0606",
                           help='optimize the model for target="cpu"')


class Bound:
    """An executable with inputs and outputs fixed: `bound()` reads the inputs and fills `outputs`."""

    def __init__(self, executable: Executable, inputs: Sequence[Array], symbols: Mapping[str, int]) -> None:
        self.inputs = list(inputs)
        self.outputs = executable.run(inputs, symbols)
        self._executable = executable
        self._symbols = dict(symbols)

    def __call__(self) -> None:
        for old, new in zip(self.outputs, self._executable.run(self.inputs, self._symbols)):
            old[...] = new


@dataclass(frozen=True)
class Ahead:
    """One kernel compiled ahead of time for a machine that need not be there. `facts`: what the compiler tells of it, by
    name. `faults`: what is wrong with it."""

    name: str
    ops: tuple[str, ...]
    layers: tuple[str, ...]
    facts: Mapping[str, str]
    faults: tuple[str, ...] = ()


@functools.cache
def code_digest(folder: Path) -> str:
    """A hash of the Python and C++ code below a folder."""
    h = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".hpp")):
        h.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return h.hexdigest()[:16]


class Backend(ABC):
    """Lowers graphs for one kind of machine."""

    name: str
    replaceable: bool = True
    """Whether the reference backend may run a model where this one cannot, with a warning; else that is an error."""

    @abstractmethod
    def pipeline(self) -> str:
        """The passes, as text, that prepare a graph for `compile` (fusion, legalization)."""

    @abstractmethod
    def compile(self, graph: Graph, options: CompileOptions, context: Context | None = None) -> Executable:
        """Lower a graph that went through `pipeline`. What cannot be lowered natively runs in torch, with a remark in
        `context`.

        The graph is not changed: the backend works on a clone.
        """

    def compile_many(self, graphs: Sequence[Graph], options: CompileOptions) -> list[Executable]:
        """Lower several graphs; backends may share work."""
        return [self.compile(g, options) for g in graphs]

    def restore(self, graph: Graph, binaries: Mapping[str, bytes], options: CompileOptions) -> Executable | None:
        """An executable from compiled code that `Executable.binaries` gave, by instruction set; None when none of it fits
        this machine or this version. `graph` went through `pipeline`. The caller vouches for the code."""
        return None

    def source(self, graph: Graph, options: CompileOptions) -> str:
        """The source that a graph, which went through `pipeline`, is lowered to. Needs no such machine."""
        raise BackendError(f"target {self.name} does not show source ahead of time", code="MC0612",
                           help="compile the graph, and look at its source()")

    def compile_ahead(self, graph: Graph, options: CompileOptions) -> list[Ahead]:
        """Compile the kernels of a graph, which went through `pipeline`, for the machine `options.isa`, which need not be
        there, at the sizes `options.hints`."""
        raise BackendError(f"target {self.name} does not compile ahead of time", code="MC0612",
                           help="that is for GPUs, such as cuda:sm_90; see the source, or compile the graph")

    def machine(self) -> str:
        """The name of the device that it runs on; empty for this computer's processor."""
        return ""

    def home(self) -> str:
        """The torch device that its executables compute on: arguments that are there already are not copied."""
        return "cpu"

    def revision(self) -> str:
        """What measured times depend on besides the device: a hash of the code that makes kernels, compilers, instruction
        sets."""
        return ""

    def describe(self) -> dict[str, str]:
        """Facts about this backend on this machine, for `mcomp doctor`: compiler, instruction sets, cache."""
        return {}

    def zero_blocks(self) -> tuple[tuple[int, int], ...]:
        """Sizes (outputs, inputs) of blocks of zeros that products on this machine skip, those that pay best first."""
        return ((32, 4),)

    def multiplies_bytes(self, op: str) -> bool:
        """Whether products by an operator are of bytes where all that it multiplies is; else it is decoded in front of the
        operator at every call. Asked for products between activations, and for recurrent layers."""
        return True

    def available(self) -> str | None:
        """Why the backend cannot run on this machine (a compiler is missing, no GPU), or None when it can."""
        return None

    def tune(self, graph: Graph, options: CompileOptions, progress: Callable[[str], None]) -> int:
        """Measure what choices for this graph (before `pipeline`) depend on and this machine has not measured yet, within
        a few seconds, and keep it for all graphs; returns how many measurements. `progress` is told what is going on."""
        return 0

    def measure_profile(self, threads: int) -> DeviceProfile | None:
        """Rates of this machine measured with the backend's own kernels and so many threads; None: numpy's will do."""
        return None


_BACKENDS: dict[str, Backend] = {}
_LOWERINGS: dict[tuple[str, str], Callable[..., Any]] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def register_backend(backend: Backend) -> Backend:
    """Make a backend known under its name."""
    _BACKENDS[backend.name] = backend
    return backend


def backend_named(name: str) -> Backend:
    """The backend for a target such as `cpu` or `cuda:sm_90` (what follows the colon is the backend's business).

    Raises BackendError with what there is.
    """
    from mcomp.plugins import load_plugins

    load_plugins()
    base = str(name).split(":", 1)[0]
    if not isinstance(name, str):
        raise BackendError(f"target is {name!r}, which is no text", code="MC0601",
                           help=f'write target="{base if base in _BACKENDS else "cpu"}"')
    if base not in _BACKENDS:
        close = difflib.get_close_matches(base, _BACKENDS, n=1)
        raise BackendError(
            f"there is no target {name}", code="MC0601",
            help=f"did you mean {close[0]}?" if close else f"targets: {', '.join(sorted(_BACKENDS))}",
        )
    return _BACKENDS[base]


def backends() -> dict[str, Backend]:
    """All known backends by name."""
    from mcomp.plugins import load_plugins

    load_plugins()
    return dict(_BACKENDS)


def lowers(*ops: str, target: str) -> Callable[[_Function], _Function]:
    """Decorator: a function `(node, ...) -> kernel | Declined` lowers these ops on a target."""

    def mark(function: _Function) -> _Function:
        for op in ops:
            _LOWERINGS[(target, op)] = function
        return function

    return mark


def lowering(node: Node, target: str) -> Callable[..., Any] | None:
    """The lowering for a node's op on a target, if there is one."""
    return _LOWERINGS.get((target, node.op.name))


def lowered_ops(target: str) -> frozenset[str]:
    """Names of the ops that a target has lowerings for."""
    return frozenset(op for t, op in _LOWERINGS if t == target)
