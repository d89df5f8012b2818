"""What a planner chooses among: groups of levels that are offered for a graph, what each takes, and pipelines for choices.

    @register_offers
    def survey(graph, context, menu, spread, memory) -> Catalog: ...

A catalog knows the parts of a graph that choices change (its products and tables). What a part takes depends on the levels
of the few groups that touch it: widths of what it reads and gives, its own treatment, whether its branch is still there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcomp.ir.graph import Graph
    from mcomp.manager.context import Context
    from mcomp.plan.memory import Memory
    from mcomp.plan.spread import Spread

Choice = tuple[int, ...]
"""For each group of a catalog the index of its level."""

_NO_RATES: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Option:
    """One level of a group: its name, and the squared relative error of the model's outputs that it is expected to add.
    kind: levels of a kind are wrong in the same way, so that what is measured of some corrects all."""

    name: str
    error: float
    kind: str


@dataclass(frozen=True)
class Group:
    """Levels of which one is chosen, the untouched one first. `inside`: groups (by index) that take away what this one is
    about, whichever of their levels is chosen but the first."""

    key: str
    options: tuple[Option, ...]
    inside: tuple[int, ...] = ()


class Catalog(ABC):
    """Everything that can be chosen for one graph."""

    groups: tuple[Group, ...]
    touching: tuple[tuple[int, ...], ...]
    """For each part the groups that it depends on."""
    plain: Choice
    """The choice that the usual quantization of all layers comes to."""
    notes: tuple[str, ...] = ()
    """What the user is to be told."""
    trains: tuple[str, ...] = ()
    """Kinds of levels whose pipelines train something: nothing is measured of them in passing."""
    lasting: Mapping[str, float] = MappingProxyType({})
    """How many times more of a kind's errors a training leaves than of those of kinds that are not named."""

    @abstractmethod
    def nbytes(self, index: int, choice: Choice) -> int:
        """Bytes of a part's weights; depends on the levels of the groups that touch it and on nothing else."""

    @abstractmethod
    def operations(self, index: int, choice: Choice) -> tuple[str, float]:
        """How a part is computed, and how many operations that takes: between parts computed in the same way, times are
        interpolated."""

    @abstractmethod
    def pieces(self, index: int, choice: Choice) -> tuple[Graph, ...]:
        """Graphs that take the time that a part takes."""

    @abstractmethod
    def pipeline(self, choice: Choice) -> str:
        """Passes, as text, that do what was chosen."""

    def glanced(self, pipeline: str) -> str:
        """Passes that give about the errors of the outputs that those of a choice do, as text, where quicker ones can."""
        return pipeline

    def trained(self, choice: Choice, steps: int, rates: Mapping[str, float] = _NO_RATES) -> str | None:
        """Passes that do it and train what is left for about so many steps, at rates by kinds of trainings (see `Training`;
        of a kind that is not there, one is found first); None where nothing can be trained."""
        return None

    def further(self, pipeline: str, steps: int, rate: float | None = None) -> str | None:
        """The passes of one that `trained` gave, which train what they came to for so many steps more; None where that is
        not possible."""
        return None


@dataclass(frozen=True)
class Menu:
    """What is wanted of a catalog. `fast`, `small`: whether time counts, whether bytes do: what saves neither is left out.
    `thin`: also widths down to a few units, which only training can make up for."""

    fast: bool = True
    small: bool = False
    thin: bool = False


Survey = Callable[["Graph", "Context", Menu, "Spread", "Memory"], Catalog]

_SURVEYS: list[Survey] = []


def register_offers(survey: Survey) -> Survey:
    """Decorator: make a function known that surveys a graph for the planner. Errors are measured on the context's
    calibration data; the graph stays as it is."""
    if survey not in _SURVEYS:
        _SURVEYS.append(survey)
    return survey


def registered_offers() -> Sequence[Survey]:
    """All surveys in order of registration, mcomp's own first. The planner asks the last one."""
    from mcomp.plugins import load_plugins

    load_plugins()
    return tuple(_SURVEYS)
