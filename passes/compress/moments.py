"""Second moments of what layers read: the matrix that pruning, refits, factorizations and rounding share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from mcomp.passes.compress.reading import Draw, Window, clean, watch, window_of
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CrossMoments", "DAMPING", "MomentSource", "Moments", "Pair",
    "as_weight", "bias_shift", "centered", "collect_moments", "cross_moments",
    "damped", "input_indices", "moment_bytes", "output_error", "refit", "relative_error", "solve", "spectrum",
    "weight_matrix", "whiten",
]

ROWS = 1 << 15
"""Positions (tokens, pixels) that moments are taken over, at most."""
PLENTY = 4
"""Positions for each input from which on they are not few."""
_DOUBT = 0.3
"""What refits to as many positions as inputs are damped by, as a share of the mean of the diagonal. An MLP without half of
its 64 units errs by 0.12 to 0.25 on other data where 100 to 24 rows were given; 0.13 to 0.17 are foretold so, 0.07 to 0.01
without."""
TOGETHER = 2048
"""Positions whose products are added up at once: those of fewer read and write the sums more often than they compute."""


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

    def damping(self, least: float) -> float:
        """What refits to these positions are damped by, at least `least`: where there are few for the inputs, so much that
        what they seem to tell by chance is not believed. With fewer positions than inputs anything could be fitted to
        them, and errors of refits would be zero."""
        width = self.gram.shape[-1]
        return least if self.count >= PLENTY * width else max(least, _DOUBT * width / max(1, self.count))

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
    sums: dict[tuple[Value, Window], _Sums] = {}
    keys = {node: (node.operand(0), window_of(node)) for node in nodes}
    for key in keys.values():
        sums.setdefault(key, _Sums())
    readers: dict[Value, list[Window]] = {}
    for value, window in sums:
        readers.setdefault(value, []).append(window)
    draw = Draw(calibration, limit, rows)

    def take(value: Value, data: Any) -> None:
        for window in readers[value]:
            for part in window.rows(data, draw):
                sums[value, window].add(part)

    with _no_grad():
        for index, batch in enumerate(calibration.batches[:limit]):
            draw.batch = index
            watch(graph, calibration, batch, readers, take)
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
    draw = Draw(calibration, limit, rows)
    outputs: dict[Value, Any] = {}

    def hold(value: Value, data: Any) -> None:
        outputs[value] = decoded(data)

    def take(value: Value, data: Any) -> None:
        for pair in readers[value]:
            wanted = _output_rows(pair, outputs[pair.dense.result])
            at = 0
            window = window_of(pair.student)
            chosen = draw(wanted.shape[0], window.width)
            for part in window.rows(data, draw):
                picked = torch.arange(at, at + part.shape[1]) if chosen is None else chosen[at : at + part.shape[1]]
                y = clean(wanted[picked]).to(part.dtype)
                groups = part.shape[0]
                sums[pair.student].add(part, y.reshape(len(y), groups, -1).transpose(0, 1))
                at += part.shape[1]

    with _no_grad():
        for index, batch in enumerate(calibration.batches[:limit]):
            draw.batch = index
            watch(dense, calibration, batch, targets, hold)
            watch(student, calibration, batch, readers, take)
            outputs.clear()
    return {node: found.moments() for node, found in sums.items() if found.inputs.count}


class MomentSource:
    """Moments of many layers, collected a part at a time, so that no more than `memory` bytes of them are held at once
    (unless one layer's need more). Ask for layers in the order given: each part runs the calibration data once."""

    def __init__(
        self, graph: Graph, calibration: Calibration, nodes: Iterable[Node], limit: int = 128, rows: int = ROWS,
        memory: int = 1 << 30,
    ) -> None:
        self._collect = lambda some: collect_moments(graph, calibration, some, limit, rows)
        self._parts: dict[Node, tuple[Node, ...]] = {}
        self._held: dict[Node, Moments] = {}
        self._part: tuple[Node, ...] = ()
        part: dict[Node, None] = {}
        keys: dict[tuple[Value, Window], int] = {}
        for node in nodes:
            key = (node.operand(0), window_of(node))
            if sum(keys.values()) + (0 if key in keys else moment_bytes(node)) > memory and part:
                self._parts |= dict.fromkeys(part, tuple(part))
                part, keys = {}, {}
            keys[key] = moment_bytes(node)
            part[node] = None
        self._parts |= dict.fromkeys(part, tuple(part))

    def __call__(self, node: Node) -> Moments | None:
        """The moments of one of the layers; None where no data reached it, and for other layers."""
        if node not in self._parts:
            return None
        if self._parts[node] != self._part:
            self._held.clear()
            self._part = self._parts[node]
            self._held = self._collect(self._part)
        return self._held.get(node)


@dataclass
class _Sums:
    """Running sums of rows [G, P, K]."""

    gram: Any = 0.0
    total: Any = 0.0
    count: int = 0
    waiting: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor) -> None:
        self.count += rows.shape[-2]
        self.waiting.append(rows)
        if sum(part.shape[-2] for part in self.waiting) >= TOGETHER:
            self._multiply()

    def _multiply(self) -> None:
        import torch

        if self.waiting:
            rows = torch.cat(self.waiting, -2)
            self.waiting = []
            self.gram = self.gram + (rows.transpose(-1, -2) @ rows).double()
            self.total = self.total + rows.double().sum(-2)

    def moments(self) -> Moments:
        self._multiply()
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
        self.cross = self.cross + (rows.transpose(-1, -2) @ targets).double()
        self.total = self.total + targets.double().sum(-2)
        self.square += float(targets.double().square().sum())

    def moments(self) -> CrossMoments:
        count = self.inputs.count
        return CrossMoments(self.inputs.moments(), self.cross / count, self.total / count, self.square / count)


def _output_rows(pair: Pair, y: Tensor) -> Tensor:
    """The dense layer's output as [positions, outputs that the compressed layer has]."""
    if pair.dense.op.name == "conv":
        y = y.movedim(1, -1)
    flat = y.reshape(-1, y.shape[-1])
    return flat if pair.outputs is None else flat[:, pair.outputs]


def _no_grad() -> Any:
    import torch

    return torch.no_grad()
