"""The backend for NVIDIA GPUs: lowers graphs to generated Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from mcomp.backend import Backend, CompileOptions, Executable, register_backend
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.device import current_device, missing
from mcomp.backends.triton.program import Program
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context


class TritonBackend(Backend):
    """Generated Triton kernels. With TRITON_INTERPRET=1 they run in Triton's interpreter, on tensors in main memory."""

    name = TARGET

    def pipeline(self) -> str:
        return "fuse,legalize{target=cuda}"

    def available(self) -> str | None:
        return missing()

    def describe(self) -> dict[str, str]:
        if find_spec("triton") is None:
            return {"triton": "not installed"}
        from importlib.metadata import version

        found = {"triton": version("triton")}
        if missing() is None:
            device = current_device()
            found["device"] = f"{device.name} (sm_{device.chip.arch})" if device.chip.arch else device.name
        return found

    def legalize(self, graph: Graph, context: Context) -> int:
        """Leave remarks about what will run in torch; see the pass `legalize`."""
        lower_graph(graph, context)
        return 0

    def compile(self, graph: Graph, options: CompileOptions, context: Context | None = None) -> Executable:
        from mcomp.backends.triton.executor import TritonExecutable

        device = current_device()
        return TritonExecutable(lower_graph(graph, context), device)

    def compile_many(self, graphs: Sequence[Graph], options: CompileOptions) -> list[Executable]:
        return [self.compile(g, options) for g in graphs]


def lower_graph(graph: Graph, context: Context | None) -> Program:
    """A program of kernels for a graph, which is not changed. The same graph always gives the same program. Needs neither
    triton nor a GPU."""
    return Builder(graph.clone(), context).build()


BACKEND = register_backend(TritonBackend())
