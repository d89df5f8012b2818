"""Running a graph by its reference meaning."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from mcomp.backend import Array, Executable, KernelInfo
from mcomp.ir.binding import assume_symbols
from mcomp.ir.graph import Graph, Node
from mcomp.ops.encoded import Encoded, array_of, decoded, tensor_of
from mcomp.ops.evaluate import Observe, constant, run_graph
from mcomp.ops.workload import workload


class ReferenceExecutable(Executable):
    """A graph interpreted in torch. Constants share memory with the weight store."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._constants = {node: constant(node) for node in graph.walk() if node.op.name == "const"}

    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int], *, numpy: bool = False) -> list[Array]:
        """See `Executable.run`. Encoded results come back decoded; tensors are contiguous."""
        given = self._tensors(inputs)
        outputs = self._own(self._run(given, symbols), given)
        return [array_of(o) if numpy and isinstance(o, torch.Tensor) else o for o in outputs]

    def kernels(self, symbols: Mapping[str, int]) -> list[KernelInfo]:
        """One kernel per node that is no constant. Sizes that only data decides count as their upper bound, or 1."""
        known = assume_symbols(self.graph, symbols)
        return [_kernel(node, known) for node in self._nodes()]

    def profile(self, inputs: Sequence[Array], symbols: Mapping[str, int], repeats: int = 10) -> list[float]:
        """Median microseconds of each kernel, in the order of `kernels`; the interpreter's own time is in them."""
        given = self._tensors(inputs)
        times: dict[Node, list[float]] = {node: [] for node in self._nodes()}
        for _ in range(max(1, repeats)):
            self._run(given, symbols, _Stopwatch(self.graph, times))
        return [median(times[node]) for node in self._nodes()]

    def _nodes(self) -> list[Node]:
        return [node for node in self.graph.nodes if node.op.name != "const"]

    def _tensors(self, inputs: Sequence[Array]) -> list[Any]:
        return [
            tensor_of(x, value.type.dtype) if isinstance(x, np.ndarray) else x
            for value, x in zip(self.graph.inputs, inputs, strict=True)
        ]

    def _run(self, given: Sequence[Any], symbols: Mapping[str, int], observe: Observe | None = None) -> list[Any]:
        with torch.no_grad():
            out = run_graph(self.graph, given, symbols, observe=observe, constants=self._constants.__getitem__)
            return [decoded(o) for o in out]

    def _own(self, outputs: list[Any], inputs: Sequence[Any]) -> list[Any]:
        """Outputs that share memory with nothing else."""
        taken = {_memory(x) for x in (*inputs, *self._parts())}
        owned: list[Any] = []
        for out in outputs:
            if not isinstance(out, torch.Tensor):
                owned.append(out)
                continue
            mine = out.detach().contiguous()
            if mine.numel() and _memory(mine) in taken:
                mine = mine.clone()
            taken.add(_memory(mine))
            owned.append(mine)
        return owned

    def _parts(self) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = []
        for value in self._constants.values():
            parts += value.parts.values() if isinstance(value, Encoded) else [value]
        return parts


class _Stopwatch:
    """Appends to `times` the microseconds between one top-level node's end and the next one's."""

    def __init__(self, graph: Graph, times: dict[Node, list[float]]) -> None:
        self._graph = graph
        self._times = times
        self._last = time.perf_counter()

    def __call__(self, node: Node, outputs: tuple[Any, ...]) -> None:
        if node.graph is not self._graph:
            return
        now = time.perf_counter()
        if node in self._times:
            self._times[node].append((now - self._last) * 1e6)
        self._last = time.perf_counter()


def _memory(x: Any) -> int:
    return x.untyped_storage().data_ptr() if isinstance(x, torch.Tensor) else 0


def _kernel(node: Node, symbols: Mapping[str, int]) -> KernelInfo:
    load = workload(node, symbols)
    inner = [n.op.name for body in node.bodies for n in body.walk() if n.op.name != "const"]
    return KernelInfo(
        name=node.name, ops=tuple(inner) or (node.op.name,), layers=node.loc.paths, native=False,
        flops=load.flops, read=load.read, write=load.write, nodes=tuple(v.name for v in node.results),
        compute=load.compute, weights=load.weights,
    )
