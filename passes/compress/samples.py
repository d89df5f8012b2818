"""What calibration shows of activations: ranges, per-channel magnitudes, and a sample to measure errors on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mcomp.ir.graph import Graph, Node, Value
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["minmax", "percentile", "mse"]
Ranges = Literal["auto", "minmax", "percentile", "mse"]

Key = tuple[Value, int]
"""A value, and the axis of its channels as what reads it sees them: 1 (convolutions) or -1."""

HUGE = 1e30
"""Magnitudes from here on are masks (such as the lowest float put on scores), not activations."""
_LEAST_SQUARE = 1e-3
"""The least squared norm that a row counts with when errors are relative to it, as a share of the usual one."""
_KEPT_VALUES = 1 << 19
_KEPT_ROWS = 512
_KEPT_IMAGES = 16
_IMAGE_BYTES = 1 << 25
"""Of images that are kept of one value, at most (one is kept in any case)."""


@dataclass
class Sample:
    """Statistics of one activation.

    `low`, `high`: extremes, masks and non-finite values left out. `magnitude`: largest magnitude per channel.
    `values`: a flat sample. `whole`: some rows (or images) as they came, for measuring errors.
    """

    channel: int
    low: float = 0.0
    high: float = 0.0
    magnitude: Tensor | None = None
    values: list[Tensor] = field(default_factory=list)
    whole: list[Tensor] = field(default_factory=list)
    seen: int = 0
    kept: int = 0

    def add(self, x: Tensor, batches: int, relevant: Tensor | None = None) -> None:
        """Take in one batch, of `batches` in all; of rows only those that are `relevant` (None: all)."""
        import torch

        data = x.detach().float()
        if relevant is not None and self.channel == -1:
            data = data.reshape(-1, data.shape[-1])[relevant]
        if data.numel() == 0:
            return
        clean = finite(data)
        low, high = torch.aminmax(clean)
        self.low = min(self.low, float(low))
        self.high = max(self.high, float(high))
        over = [i for i in range(clean.dim()) if i != self.channel % clean.dim()]
        magnitude = clean.abs().amax(over) if over else clean.abs()
        self.magnitude = magnitude if self.magnitude is None else torch.maximum(self.magnitude, magnitude)
        flat = clean.reshape(-1)
        self.values.append(flat[self._places(flat.numel(), max(1, _KEPT_VALUES // batches))])
        self._keep(clean, batches)
        self.seen += 1

    def _keep(self, data: Tensor, batches: int) -> None:
        images = self.channel == 1
        rows = data if images else data.reshape(-1, data.shape[-1])
        limit = _KEPT_ROWS
        if images and rows.shape[0]:
            limit = max(1, min(_KEPT_IMAGES, _IMAGE_BYTES // max(1, rows[0].nbytes)))
        share = max(1, limit // batches)
        if self.kept >= limit or rows.shape[0] == 0:
            return
        taken = rows[self._places(rows.shape[0], share)]
        self.whole.append(taken)
        self.kept += taken.shape[0]

    def _places(self, count: int, wanted: int) -> Tensor:
        """At most so many places of a batch, one somewhere in each of as many equal parts: even steps could always meet the
        first token of a sentence, or the same channels."""
        import torch

        if count <= wanted:
            return torch.arange(count)
        edges = torch.arange(wanted + 1) * count // wanted
        within = torch.rand(wanted, generator=torch.Generator().manual_seed(self.seen))
        return edges[:-1] + (within * (edges[1:] - edges[:-1])).long()

    def rows(self) -> Tensor:
        """The rows (or images) kept."""
        import torch

        if len({tuple(w.shape[1:]) for w in self.whole}) > 1:
            return self.whole[0]
        return torch.cat(self.whole)

    def flat(self) -> Tensor:
        """The flat sample."""
        import torch

        return torch.cat(self.values)


def finite(x: Tensor) -> Tensor:
    """Floats with zeros in place of NaN, infinities and masks; the tensor itself where it has none of them."""
    import torch

    if x.numel():
        low, high = torch.aminmax(x)  # both NaN where any element is
        if float(low) > -HUGE and float(high) < HUGE:
            return x
    return torch.where(torch.isfinite(x) & (x.abs() < HUGE), x, torch.zeros((), dtype=x.dtype))


def sample_key(node: Node) -> Key:
    """What is sampled for a linear or conv."""
    return node.operand(0), 1 if node.op.name == "conv" else -1


def sample_of(value: Value, samples: Mapping[Key, Sample]) -> Sample | None:
    """What was seen of a value, by whichever axis; None where nothing was."""
    found = (samples.get((value, channel)) for channel in (-1, 1))
    return next((sample for sample in found if sample is not None and sample.whole), None)


def collect(graph: Graph, calibration: Calibration, wanted: Iterable[Key], limit: int) -> dict[Key, Sample]:
    """Run calibration data through the graph and sample the wanted values, for each axis of channels by itself: of rows
    those that are relevant, where the calibration data tells."""
    from mcomp.ops.evaluate import run_graph

    samples = {key: Sample(key[1]) for key in wanted}
    axes: dict[Value, list[int]] = {}
    for value, channel in samples:
        axes.setdefault(value, []).append(channel)
    batches, marks = min(limit, len(calibration)), calibration.relevant or {}
    inputs = {v: i for i, v in enumerate(graph.inputs) if v in axes}
    at = 0

    def take(value: Value, data: Any) -> None:
        count = math.prod(data.shape[:-1]) if data.dim() else 0
        for channel in axes[value]:
            samples[value, channel].add(data, batches, marks.get((at, count)))

    def observe(node: Node, outputs: Sequence[Any]) -> None:
        for value, output in zip(node.results, outputs):
            if value in axes:
                take(value, output)

    for at in range(batches):
        given = calibration.inputs(graph, calibration.batches[at])
        for value, index in inputs.items():
            take(value, given[index])
        run_graph(graph, given, observe=observe)
    return samples


def activation_range(sample: Sample, method: Method, percentile: float, levels: int) -> tuple[float, float]:
    """The range to quantize: extremes, a central percentile of the sample, or the one with the least squared error
    among the extremes shrunk step by step. Zero is always inside; a percentile of nothing but zeros gives the extremes."""
    import torch

    low, high = min(0.0, sample.low), max(0.0, sample.high)
    values = sample.flat()
    if method == "minmax" or values.numel() < 16 or low == high:
        return low, high
    if method == "percentile":
        ordered = torch.sort(values).values
        cut = (1.0 - percentile / 100.0) / 2.0
        at = int(cut * (ordered.numel() - 1))
        inner = min(0.0, float(ordered[at])), max(0.0, float(ordered[ordered.numel() - 1 - at]))
        return inner if inner[0] < inner[1] else (low, high)
    some = values[:: max(1, values.numel() // 65536)]
    best, chosen = float("inf"), (low, high)
    for shrink in torch.linspace(0.35, 1.0, 27).tolist():
        error = _squared_error(some, low * shrink, high * shrink, levels)
        if error < best:
            best, chosen = error, (low * shrink, high * shrink)
    return chosen


def _squared_error(values: Tensor, low: float, high: float, levels: int) -> float:
    import torch

    scale = (high - low) / (levels - 1)
    zero = round(-low / scale)
    q = torch.clamp(torch.round(values / scale) + zero, 0, levels - 1)
    return float(((q - zero) * scale - values).square().mean())


def scale_and_zero(low: float, high: float, unsigned: bool) -> tuple[float, int]:
    """Scale and zero point of 8-bit integers for a range with zero in it: u8 asymmetric, i8 symmetric."""
    if unsigned:
        scale = max(high - low, 1e-12) / 255.0
        return scale, max(0, min(255, round(-low / scale)))
    return max(abs(low), abs(high), 1e-12) / 127.0, 0


def smoothing(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Per-channel factors that move outliers from activations to weights: max|x|^alpha / max|w|^(1-alpha)
    (SmoothQuant, Xiao et al. 2023, equation 4). Activations are divided, weights multiplied. Channels that never fire
    get 1."""
    import torch

    x = activations.clamp(min=1e-5)
    w = weights.clamp(min=1e-5)
    factors = (x.pow(alpha) / w.pow(1.0 - alpha)).clamp(1e-4, 1e4)
    return torch.where(activations > 0, factors, torch.ones_like(factors))


def error_by_row(rough: Tensor, exact: Tensor) -> float:
    """Root mean square over rows (tokens, images) of the relative L2 error (see `row_errors`), so that a few rows of large
    values do not hide what happens to the others."""
    scale = exact.reshape(exact.shape[0], -1).square().sum(1)
    error = (rough - exact).reshape(exact.shape[0], -1).square().sum(1)
    shares = row_errors(error, scale)
    return float(shares.mean().sqrt()) if shares.numel() else 0.0


def row_errors(error: Tensor, scale: Tensor) -> Tensor:
    """Squared errors of rows relative to their squared norms, both [rows]. Norms count as no less than a small share of the
    usual one, the median of those that are not zero, so that rows of zeros (padding, dead units) do not make errors
    infinite: these are so only where all rows are zero and no longer are."""
    import torch

    some = scale[scale > 0]
    if not some.numel():
        return torch.where(error > 0, torch.inf, 0.0)
    return error / scale.clamp(min=_LEAST_SQUARE * float(some.median()))
