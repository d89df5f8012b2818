"""Analyses: facts about a graph, computed on demand and cached per graph version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import ref

from mcomp.ir.graph import Graph

if TYPE_CHECKING:
    from mcomp.manager.context import Context

ResultT = TypeVar("ResultT")


class Analysis(ABC):
    """A named fact about a graph. Subclasses are frozen dataclasses when they have options.

    `run` must not change the graph. Its result is cached until the graph changes, or longer when the pass that changed
    it says so (`PassResult.preserved`).
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Any:
        """Compute the fact."""


class Analyses:
    """The cache of analysis results of one graph in one context, which lives as long as both."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self._graph = graph
        self._context = ref(context)
        self._cache: dict[Analysis, tuple[int, Any]] = {}
        self.computed = 0
        """How many results were computed rather than taken from the cache."""

    def get(self, analysis: Analysis) -> Any:
        """The result for the graph as it is now."""
        found = self._cache.get(analysis)
        if found is not None and found[0] == self._graph.version:
            return found[1]
        context = self._context()
        assert context is not None, "the context that asks is alive"
        self.computed += 1
        result = analysis.run(self._graph, context)
        self._cache[analysis] = (self._graph.version, result)
        return result

    def preserve(self, names: frozenset[str] | None, since: int) -> None:
        """After a pass that began at the version `since`: mark the analyses of these names (None: all) that were valid then
        as valid for the current version; drop the others."""
        version = self._graph.version
        self._cache = {
            analysis: (version, result)
            for analysis, (valid, result) in self._cache.items()
            if valid == version or (valid == since and (names is None or analysis.name in names))
        }
