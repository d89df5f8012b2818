"""How layers read values: which positions are taken of a batch, and what is multiplied by the weights there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from mcomp.ir.graph import Graph, Node, Value
from mcomp.ops.encoded import decoded
from mcomp.passes.compress.samples import finite
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 22
"""Elements of the matrix of patches that are held at once."""
_WIDE = 1024
"""Inputs from which products are taken in float32 (and summed in float64)."""
_WORK = 1 << 36
"""Multiplications for one layer's moments from which fewer positions are taken, though not fewer than twice its inputs."""


class Draw:
    """Which of a batch's positions are taken: the same ones for the same batch and number of positions, and only such as
    are relevant, where the calibration data tells."""

    def __init__(self, calibration: Calibration, limit: int, rows: int) -> None:
        self.rows = rows
        self.batches = max(1, min(limit, len(calibration)))
        self.batch = 0
        self.relevant = calibration.relevant or {}
        self._known: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, count: int, width: int = 1) -> Tensor | None:
        """Ascending indices, or None where all `count` positions of `width` inputs are taken."""
        import torch

        rows = max(2 * width, min(self.rows, _WORK // (width * width)))
        share = max(1, rows // self.batches)
        relevant = self.relevant.get((self.batch, count))
        if relevant is None and count <= share:
            return None
        key = (self.batch, count, share)
        if key not in self._known:
            self._known = {k: v for k, v in self._known.items() if k[0] == self.batch}
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.batch))
            order = order if relevant is None else order[relevant[order]]
            self._known[key] = order[:share].sort().values
        return self._known[key]


@dataclass(frozen=True)
class Window:
    """How a layer reads a value: rows of a linear (no kernel), or the windows of a convolution; `width` inputs a group."""

    width: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def rows(self, data: Any, draw: Draw) -> Iterable[Tensor]:
        """What is read of a value at the drawn positions, cleaned, in pieces [G, P, K] of float64 (many inputs: float32)."""
        import torch

        x = decoded(data).detach()
        if not self.kernel:
            flat = x.reshape(-1, x.shape[-1])
            chosen = draw(flat.shape[0], self.width)
            yield from (self._exact(p)[None] for p in _pieces(flat if chosen is None else flat[chosen], flat.shape[-1]))
            return
        x = torch.nn.functional.pad(x, [p for pair in reversed(self.padding) for p in pair])
        sizes = x.shape[2:]
        counts = [
            (size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(sizes, self.kernel, self.stride, self.dilation)
        ]
        total = x.shape[0] * prod(counts)
        chosen = draw(total, self.width)
        steps = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
        offsets = torch.zeros(1, dtype=torch.long)
        for k, d, step in zip(self.kernel, self.dilation, steps):
            offsets = (offsets[:, None] + torch.arange(k) * (d * step)).reshape(-1)
        flat = x.flatten(2)
        width = x.shape[1] * offsets.numel()
        for part in _pieces(torch.arange(total) if chosen is None else chosen, width):
            image, start = part, torch.zeros_like(part)
            for count, stride, step in reversed(list(zip(counts, self.stride, steps))):
                start = start + image % count * (stride * step)
                image = torch.div(image, count, rounding_mode="floor")
            taken = flat[image[:, None], :, start[:, None] + offsets]
            grouped = taken.transpose(1, 2).reshape(len(part), self.groups, -1)
            yield self._exact(grouped.transpose(0, 1))

    def _exact(self, rows: Tensor) -> Tensor:
        return clean(rows) if self.width > _WIDE else clean(rows).double()


def window_of(node: Node) -> Window:
    """How a linear or conv reads its first operand."""
    width = prod(node.operand(1).tensor.static_shape[1:])
    if node.op.name == "linear":
        return Window(width)
    assert node.op.name == "conv", node.op.name
    attrs = node.attrs
    return Window(
        width, node.operand(1).tensor.static_shape[2:], tuple(attrs["stride"]), tuple((a, b) for a, b in attrs["padding"]),
        tuple(attrs["dilation"]), attrs["groups"],
    )


def _pieces(rows: Tensor, width: int) -> Iterable[Tensor]:
    size = max(1, _CHUNK // max(1, width))
    return (rows[i : i + size] for i in range(0, rows.shape[0], size))


def clean(data: Any) -> Tensor:
    """A value as float32, with zeros in place of NaN, infinities and masks."""
    return finite(decoded(data).detach().float())


class _Seen(Exception):
    """Everything that was wanted has been seen: the rest of the graph need not run."""


def watch(
    graph: Graph, calibration: Calibration, batch: Sequence[Any], wanted: Mapping[Value, object],
    take: Callable[[Value, Any], None],
) -> None:
    """Run one batch through a graph as far as needed, handing over the wanted values."""
    from mcomp.ops.evaluate import run_graph

    given = calibration.inputs(graph, batch)
    left = set(wanted)
    for value, data in zip(graph.inputs, given):
        if value in left:
            take(value, data)
            left.discard(value)
    if not left:
        return

    def observe(node: Node, outputs: Sequence[Any]) -> None:
        for value, data in zip(node.results, outputs):
            if value in left:
                take(value, data)
                left.discard(value)
        if not left:
            raise _Seen

    try:
        run_graph(graph, given, observe=observe)
    except _Seen:
        return
