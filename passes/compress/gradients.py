"""Gradients of the model's own outputs in random directions: what matters to them, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.errors import PassError
from mcomp.ir.dims import Expr
from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.ops.encoded import decoded
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Generator, Tensor

_SAMPLES = 128
"""Samples whose gradients are taken, at most."""
AT_ONCE = 8
"""Samples whose activations are held at once."""


def input_products(graph: Graph, context: Context, nodes: Sequence[Node]) -> dict[Node, Tensor]:
    """For linear and conv nodes, activation times gradient of each input channel, summed over positions: f64[samples, K].
    Nodes without gradients are left out. Raises PassError where the model has none."""
    import torch

    assert context.calibration is not None
    generator = torch.Generator().manual_seed(context.seed)
    products: dict[Node, list[Tensor]] = {n: [] for n in nodes}
    for inputs, _ in pieces(graph, context.calibration, _SAMPLES, AT_ONCE):
        record = Recording(graph, nodes, inputs)
        if not record.outputs:
            raise PassError("prune: no output of the model has gradients", help="use another score than taylor")
        for node, gradient in record.gradients(generator).items():
            if node in record.read:
                products[node].append(_input_products(node, record.read[node], gradient))
    return {n: torch.cat(p) for n, p in products.items() if p}


class Recording:
    """One differentiable run of a graph: what layers read and give, and the outputs that have gradients."""

    def __init__(self, graph: Graph, nodes: Sequence[Node], inputs: Sequence[Any]) -> None:
        import torch

        from mcomp.ops.evaluate import run_graph

        self.wanted = frozenset(nodes)
        self.weights = {n.operand(1).producer for n in nodes}
        self.sources = {n.operand(0) for n in nodes}
        self.results: dict[Node, Tensor] = {}
        self.read: dict[Node, Tensor] = {}
        self._values = {v: x for v, x in zip(graph.inputs, inputs) if v in self.sources}
        with torch.enable_grad():
            found = run_graph(graph, inputs, observe=self._observe, constants=self._constant)
        self.outputs = [
            y for y in found if isinstance(y, torch.Tensor) and y.is_floating_point() and y.requires_grad
        ]

    def _observe(self, node: Node, results: Sequence[Any]) -> None:
        self._values.update((v, decoded(r)) for v, r in zip(node.results, results) if v in self.sources)
        if node in self.wanted and results[0].requires_grad:
            self.results[node] = results[0]
            x = self._values.get(node.operand(0))
            if x is not None:
                self.read[node] = x

    def _constant(self, node: Node) -> Any:
        import torch

        from mcomp.ops.evaluate import constant

        value = constant(node)
        if node in self.weights and isinstance(value, torch.Tensor):
            return value.detach().requires_grad_(True)
        return value

    def gradients(self, generator: Generator) -> dict[Node, Tensor]:
        """Gradients of the results of nodes for one random direction (signs) of the outputs."""
        import torch

        places = list(self.results)
        if not places or not self.outputs:
            return {}
        signs = [torch.randint(0, 2, y.shape, generator=generator).to(y.dtype) * 2 - 1 for y in self.outputs]
        found = torch.autograd.grad(self.outputs, [self.results[n] for n in places], signs, allow_unused=True)
        return {n: g for n, g in zip(places, found) if g is not None}


def _input_products(node: Node, x: Tensor, gradient: Tensor) -> Tensor:
    """Activation times gradient of each input channel, summed over positions: [samples, K], from the gradient of the
    result."""
    import torch

    with torch.enable_grad():
        source = x.detach().requires_grad_(True)
        operands = [source, *(_constant(v) for v in node.operands[1:])]
        again = node.op.reference(operands, node.attrs)
        (back,) = torch.autograd.grad(again, source, gradient.to(again.dtype))
    product = (source.detach() * back).double()
    if node.op.name == "conv":
        return product.flatten(2).sum(2)
    lead = product.shape[0] if product.dim() > 1 else 1
    return product.reshape(lead, -1, product.shape[-1]).sum(1)


def _constant(value: Any) -> Any:
    from mcomp.ops.encoded import to_torch_tensor

    return None if value is None else to_torch_tensor(value.weight)


def pieces(
    graph: Graph, calibration: Calibration, samples: int, at_once: int
) -> Iterator[tuple[list[Any], int]]:
    """Inputs of the graph and how many samples they hold, up to about `samples` in all; batches are cut into pieces of
    `at_once` where all arguments have one symbolic leading axis, and count as one sample elsewhere."""
    seen = 0
    for batch in calibration.batches:
        size = _batch(graph, batch)
        for start in range(0, 1 if size is None else size, at_once):
            if seen >= samples:
                return
            part = batch if size is None else [x[start : start + at_once] for x in batch]
            count = 1 if size is None else len(part[0])
            yield calibration.inputs(graph, part), count
            seen += count


def _batch(graph: Graph, batch: Sequence[Any]) -> int | None:
    leading = [v.tensor.shape[0] if v.tensor.shape else 0 for v in graph.inputs[: len(batch)]]
    same = len(set(leading)) == 1 and isinstance(leading[0], Expr)
    return int(batch[0].shape[0]) if same and len(batch) else None
