"""Second moments of what layers read: the matrix that pruning, refits, factorizations and rounding share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir.graph import Graph, Node, Value
from mcomp.ops.encoded import decoded
from mcomp.passes.compress.algebra import (
    DAMPING,
    bias_shift,
    centered,
    damped,
    output_error,
    refit,
    relative_error,
    solve,
    spectrum,
    whiten,
)
from mcomp.passes.compress.samples import HUGE
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CrossMoments", "DAMPING", "Moments", "Pair", "as_weight", "bias_shift", "centered", "collect_moments", "cross_moments",
    "damped", "input_indices", "moment_bytes", "output_error", "refit", "relative_error", "solve", "spectrum",
    "weight_matrix", "whiten",
]

ROWS = 1 << 15
"""Positions (tokens, pixels) that moments are taken over, at most."""
_CHUNK = 1 << 22
"""Elements of the matrix of patches that are held at once."""


@dataclass(frozen=True)
class Moments:
    """Averages over positions (tokens, or pixels of the result) of what a layer multiplies there by its weights.

    `gram` [G, K, K] float64: E[x x^T], G groups of a convolution (else 1), K inputs of a linear, or in_channels/G * kernel
    positions of a convolution in the order of its weight. `mean` [G, K]: E[x]. `count`: positions averaged over.
    """

    gram: Tensor
    mean: Tensor
    count: int

    @property
    def covariance(self) -> Tensor:
        """Second moments around the mean [G, K, K]: what matters where a bias takes up the mean."""
        return centered(self.gram, self.mean)

    def kept(self, inputs: Tensor) -> Moments:
        """The moments of some inputs (indices, the same in every group)."""
        return Moments(self.gram.index_select(-2, inputs).index_select(-1, inputs), self.mean.index_select(-1, inputs),
                       self.count)

    def error(self, delta: Tensor, weight: Tensor) -> float:
        """The relative L2 change of the output when `weight` [G, N, K] changes by `delta`."""
        return relative_error(delta, weight, self.gram)


@dataclass(frozen=True)
class Pair:
    """A layer of the dense graph, the layer of the compressed graph that stands for it, and which of the dense layer's
    outputs (indices; None: all) the compressed one has."""

    dense: Node
    student: Node
    outputs: Tensor | None = None


@dataclass(frozen=True)
class CrossMoments:
    """What a compressed layer reads, beside what the dense layer gives at the same positions (its bias included).

    `inputs`: moments of the compressed layer's inputs x. `cross` [G, K, N]: E[x y^T], N outputs per group. `target_mean`
    [G, N]: E[y]. `target_square`: E|y|^2 over all outputs.
    """

    inputs: Moments
    cross: Tensor
    target_mean: Tensor
    target_square: float

    def regress(self, weight: Tensor, damping: float = DAMPING, *, bias: bool = True) -> tuple[Tensor, Tensor]:
        """Weights [G, N, K] and bias [G, N] with the least E|y - W x - b|^2. Damping pulls towards `weight`. Without
        `bias` the bias is zero."""
        import torch

        gram, cross = self.inputs.gram, self.cross
        if bias:
            gram = self.inputs.covariance
            cross = cross - self.inputs.mean[..., :, None] * self.target_mean[..., None, :]
        missing = cross - gram @ weight.transpose(-1, -2)
        found = weight + solve(gram, missing, damping).transpose(-1, -2)
        if not bias:
            return found, torch.zeros_like(self.target_mean)
        return found, self.target_mean - (found @ self.inputs.mean[..., None])[..., 0]

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """The relative L2 difference between the dense layer's output and W x + b."""
        product = (weight @ self.inputs.mean[..., None])[..., 0]
        square = self.target_square - 2 * float((weight * self.cross.transpose(-1, -2)).sum())
        square += output_error(weight, self.inputs.gram)
        square += float((bias * (bias + 2 * product - 2 * self.target_mean)).sum())
        if self.target_square <= 0.0:
            return 0.0 if square <= 0.0 else float("inf")
        return (max(0.0, square) / self.target_square) ** 0.5


def weight_matrix(node: Node) -> Tensor:
    """The constant weight of a linear or conv as float64 [G, outputs/G, K], in the order of its moments."""
    import torch

    stored = node.operand(1).weight
    assert stored is not None
    data = torch.from_numpy(np.array(stored.decode(), dtype=np.float64))
    groups = node.attrs.get("groups", 1)
    return data.reshape(groups, data.shape[0] // groups, -1)


def as_weight(matrix: Tensor, shape: Sequence[int]) -> np.ndarray:
    """A matrix [G, N, K] as a float32 weight of the given shape."""
    return np.ascontiguousarray(matrix.float().reshape(*shape).numpy())


def input_indices(channels: Tensor, window: int) -> Tensor:
    """The inputs (indices into K) that belong to some input channels of a convolution with `window` kernel positions."""
    import torch

    return (channels[:, None] * window + torch.arange(window)).reshape(-1)


def moment_bytes(node: Node) -> int:
    """Bytes of the moments of a linear or conv with a weight of known shape."""
    shape = node.operand(1).tensor.static_shape
    width = prod(shape[1:])
    return 8 * node.attrs.get("groups", 1) * width * (width + 1)


def collect_moments(
    graph: Graph, calibration: Calibration, nodes: Iterable[Node], limit: int = 128, rows: int = ROWS
) -> dict[Node, Moments]:
    """Moments of what each of `nodes` (linear, conv) reads, over the first `limit` calibration batches.

    At most `rows` positions are taken, an equal share of each batch, drawn the same in every run. Magnitudes that stand
    for masks, infinities and NaN count as zeros. Nodes that read the same value in the same way share one Moments; nodes
    that no data reached are left out. Batches are streamed: nothing but sums is kept.
    """
    sums: dict[tuple[Value, _Window], _Sums] = {}
    keys = {node: (node.operand(0), _window(node)) for node in nodes}
    for key in keys.values():
        sums.setdefault(key, _Sums())
    readers: dict[Value, list[_Window]] = {}
    for value, window in sums:
        readers.setdefault(value, []).append(window)
    draw = _Draw(calibration, limit, rows)

    def take(value: Value, data: Any) -> None:
        for window in readers[value]:
            for part in window.rows(_clean(data), draw):
                sums[value, window].add(part)

    with _no_grad():
        for index, batch in enumerate(calibration.batches[:limit]):
            draw.batch = index
            _watch(graph, calibration, batch, readers, take)
    moments = {key: found.moments() for key, found in sums.items() if found.count}
    return {node: moments[key] for node, key in keys.items() if key in moments}


def cross_moments(
    dense: Graph, student: Graph, pairs: Sequence[Pair], calibration: Calibration, limit: int = 128, rows: int = ROWS
) -> dict[Node, CrossMoments]:
    """For each pair the moments of the compressed layer's inputs and of the dense layer's outputs, by the compressed
    node, from running both graphs on the same batches. The positions of the two layers must be the same in number."""
    import torch

    readers: dict[Value, list[Pair]] = {}
    targets: dict[Value, None] = {}
    for pair in pairs:
        readers.setdefault(pair.student.operand(0), []).append(pair)
        targets[pair.dense.result] = None
    sums = {pair.student: _CrossSums() for pair in pairs}
    draw = _Draw(calibration, limit, rows)
    outputs: dict[Value, Any] = {}

    def hold(value: Value, data: Any) -> None:
        outputs[value] = decoded(data)

    def take(value: Value, data: Any) -> None:
        for pair in readers[value]:
            wanted = _output_rows(pair, outputs[pair.dense.result])
            at = 0
            chosen = draw(wanted.shape[0])
            for part in _window(pair.student).rows(_clean(data), draw):
                picked = torch.arange(at, at + part.shape[1]) if chosen is None else chosen[at : at + part.shape[1]]
                y = _clean(wanted[picked]).double()
                groups = part.shape[0]
                sums[pair.student].add(part, y.reshape(len(y), groups, -1).transpose(0, 1))
                at += part.shape[1]

    with _no_grad():
        for index, batch in enumerate(calibration.batches[:limit]):
            draw.batch = index
            _watch(dense, calibration, batch, targets, hold)
            _watch(student, calibration, batch, readers, take)
            outputs.clear()
    return {node: found.moments() for node, found in sums.items() if found.inputs.count}


@dataclass
class _Sums:
    """Running sums of rows [G, P, K]."""

    gram: Any = 0.0
    total: Any = 0.0
    count: int = 0

    def add(self, rows: Tensor) -> None:
        self.gram = self.gram + rows.transpose(-1, -2) @ rows
        self.total = self.total + rows.sum(-2)
        self.count += rows.shape[-2]

    def moments(self) -> Moments:
        return Moments(self.gram / self.count, self.total / self.count, self.count)


@dataclass
class _CrossSums:
    """Running sums of rows [G, P, K] and targets [G, P, N]."""

    inputs: _Sums = field(default_factory=_Sums)
    cross: Any = 0.0
    total: Any = 0.0
    square: float = 0.0

    def add(self, rows: Tensor, targets: Tensor) -> None:
        self.inputs.add(rows)
        self.cross = self.cross + rows.transpose(-1, -2) @ targets
        self.total = self.total + targets.sum(-2)
        self.square += float(targets.square().sum())

    def moments(self) -> CrossMoments:
        count = self.inputs.count
        return CrossMoments(self.inputs.moments(), self.cross / count, self.total / count, self.square / count)


class _Draw:
    """Which of a batch's positions are taken: the same ones for the same batch and number of positions."""

    def __init__(self, calibration: Calibration, limit: int, rows: int) -> None:
        self.share = max(1, rows // max(1, min(limit, len(calibration))))
        self.batch = 0
        self._known: dict[tuple[int, int], Tensor] = {}

    def __call__(self, count: int) -> Tensor | None:
        """Ascending indices, or None where all `count` positions are taken."""
        import torch

        if count <= self.share:
            return None
        key = (self.batch, count)
        if key not in self._known:
            self._known = {k: v for k, v in self._known.items() if k[0] == self.batch}
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.batch))
            self._known[key] = order[: self.share].sort().values
        return self._known[key]


@dataclass(frozen=True)
class _Window:
    """How a layer reads a value: rows of a linear (no kernel), or the windows of a convolution."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def rows(self, x: Tensor, draw: _Draw) -> Iterable[Tensor]:
        """What is read at the drawn positions, in pieces [G, P, K] of float64."""
        import torch

        if not self.kernel:
            flat = x.reshape(-1, x.shape[-1])
            chosen = draw(flat.shape[0])
            yield from (p.double()[None] for p in _pieces(flat if chosen is None else flat[chosen], flat.shape[-1]))
            return
        x = torch.nn.functional.pad(x, [p for pair in reversed(self.padding) for p in pair])
        sizes = x.shape[2:]
        counts = [
            (size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(sizes, self.kernel, self.stride, self.dilation)
        ]
        total = x.shape[0] * prod(counts)
        chosen = draw(total)
        steps = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
        offsets = torch.zeros(1, dtype=torch.long)
        for k, d, step in zip(self.kernel, self.dilation, steps):
            offsets = (offsets[:, None] + torch.arange(k) * (d * step)).reshape(-1)
        flat = x.reshape(*x.shape[:2], -1)
        width = x.shape[1] * offsets.numel()
        for part in _pieces(torch.arange(total) if chosen is None else chosen, width):
            image, start = part, torch.zeros_like(part)
            for count, stride, step in reversed(list(zip(counts, self.stride, steps))):
                start = start + image % count * (stride * step)
                image = torch.div(image, count, rounding_mode="floor")
            taken = flat[image[:, None], :, start[:, None] + offsets]
            grouped = taken.transpose(1, 2).reshape(len(part), self.groups, -1)
            yield grouped.transpose(0, 1).double()


def _window(node: Node) -> _Window:
    if node.op.name == "linear":
        return _Window()
    assert node.op.name == "conv", node.op.name
    attrs = node.attrs
    return _Window(
        node.operand(1).tensor.static_shape[2:], tuple(attrs["stride"]), tuple((a, b) for a, b in attrs["padding"]),
        tuple(attrs["dilation"]), attrs["groups"],
    )


def _pieces(rows: Tensor, width: int) -> Iterable[Tensor]:
    size = max(1, _CHUNK // max(1, width))
    return (rows[i : i + size] for i in range(0, rows.shape[0], size))


def _output_rows(pair: Pair, y: Tensor) -> Tensor:
    """The dense layer's output as [positions, outputs that the compressed layer has]."""
    if pair.dense.op.name == "conv":
        y = y.movedim(1, -1)
    flat = y.reshape(-1, y.shape[-1])
    return flat if pair.outputs is None else flat[:, pair.outputs]


def _clean(data: Any) -> Tensor:
    import torch

    x = decoded(data).detach().float()
    return torch.where(torch.isfinite(x) & (x.abs() < HUGE), x, torch.zeros((), dtype=x.dtype))


class _Seen(Exception):
    """Everything that was wanted has been seen: the rest of the graph need not run."""


def _watch(
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


def _no_grad() -> Any:
    import torch

    return torch.no_grad()
