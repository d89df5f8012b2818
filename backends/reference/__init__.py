"""The reference backend: torch, op by op. Slow, right, differentiable."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mcomp.backend import Backend, CompileOptions, Executable, register_backend
from mcomp.ir.graph import Graph

if TYPE_CHECKING:
    from mcomp.manager.context import Context


class ReferenceBackend(Backend):
    """Runs every operator by its `reference`. Takes every graph as it is; threads are torch's."""

    name = "reference"

    def pipeline(self) -> str:
        """No passes are needed."""
        return ""

    def compile(self, graph: Graph, options: CompileOptions, context: Context | None = None) -> Executable:
        """An executable over a clone of the graph."""
        from mcomp.backends.reference.executable import ReferenceExecutable

        return ReferenceExecutable(graph.clone())

    def available(self) -> str | None:
        """A reason where torch is not installed."""
        try:
            found = find_spec("torch") is not None
        except ValueError:  # importing it was blocked
            found = False
        return None if found else "torch is not installed"


register_backend(ReferenceBackend())
