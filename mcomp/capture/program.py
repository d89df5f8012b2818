"""What capture returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcomp.capture.signature import Signature
from mcomp.capture.structure import Rebind, Spec
from mcomp.ir.graph import Graph

Shape = tuple[int, ...]
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class CapturedProgram:
    """A model, or a module of it, as a graph, and how Python values meet it.

    `arguments` is the structure of the arguments by parameter name (`signature.bind` gives them); its tensors, in the
    order of their indices, are the graph's first inputs; state inputs follow. The graph's outputs of kind `result` are
    the tensors that `results` and `rebinds` number. `shapes` are those of the example's tensors. `remarks` say what did
    not go as asked. `opaque` counts the calls that torch will run: (operator, reason) -> count. `unchecked` are assertions
    about values that the graph leaves out: (module path, message).
    """

    graph: Graph
    signature: Signature
    arguments: Spec
    results: Spec
    rebinds: tuple[Rebind, ...]
    shapes: tuple[Shape, ...]
    path: str = ""
    remarks: tuple[str, ...] = ()
    opaque: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unchecked: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class EagerModule:
    """A module that stays eager: its path (empty: the model's own code between its modules), why, and what to do."""

    path: str
    reason: str
    remedy: str = ""


class PartsHost(Protocol):
    """Runs the model in eager mode with some modules replaced."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""

    def install(self, path: str, function: Callable[..., Any]) -> None:
        """Let `function` do what the module at `path` does."""

    def buffers(self) -> Iterable[Any]:
        """The buffers of the modules that run."""

    def inputs(self, paths: Sequence[str], calls: Sequence[Call]) -> dict[str, list[Call]]:
        """The calls that these modules get while the model runs `calls`."""


@dataclass(frozen=True)
class Captured:
    """A captured model: as one `program`, or in `parts` by module path, with the rest eager in `fallback`.

    `eager` says what stayed eager and why. `notes` are (layer, reason, remedy) for the report; so are `warnings`, of what
    the model checks and the captured one does not.
    """

    program: CapturedProgram | None
    parts: dict[str, CapturedProgram]
    fallback: PartsHost | None
    eager: tuple[EagerModule, ...]
    notes: tuple[tuple[str, str, str], ...]
    warnings: tuple[tuple[str, str, str], ...] = ()

    def install(self, path: str, function: Callable[..., Any]) -> None:
        """Let `function` do what the part at `path` does when `fallback` is called."""
        assert self.fallback is not None
        self.fallback.install(path, function)

    def part_inputs(self, calls: Sequence[Call]) -> dict[str, list[Call]]:
        """The calls that each part gets while the model runs `calls`."""
        assert self.fallback is not None
        return self.fallback.inputs(list(self.parts), calls)
