"""Rounding weights to integers with the second moments of what they are multiplied by.

Three ways, each given scales: to the nearest integer; with error feedback, where every column makes up for the rounding of
those before it (GPTQ: Frantar, Ashkboos, Hoefler, Alistarh, ICLR 2023); and learned, where integers and scales descend by
turns on the squared error of the layer's output, coordinate by coordinate, in closed form. A mask keeps zeros zero, and the
other weights make up for that too. Everything is in float64; shapes [G, N, K]: groups of a convolution, outputs, inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mcomp.passes.compress.algebra import damped

if TYPE_CHECKING:
    from torch import Tensor

Way = Literal["nearest", "feedback", "learned"]

DAMPING = 1e-2
"""What feedback adds to the diagonal of second moments, as a share of its mean: it keeps weights near what they were in
directions that calibration data does not show."""
SWEEPS = 3
"""How often learning visits every integer, and then every scale."""
_BLOCK = 96
_PATTERNS = 24
"""Rows with a mask in common are solved together on the inputs they keep, up to so many different masks."""
_SHRINKS = 21


@dataclass(frozen=True)
class Levels:
    """The integers there are, and how many consecutive inputs share a scale (None: all of an output's)."""

    low: int
    high: int
    group: int | None = None

    def spread(self, scales: Tensor, width: int) -> Tensor:
        """Scales [G, N, S] as one for each weight [G, N, K]."""
        return scales.repeat_interleave(width // scales.shape[-1], -1)


@dataclass(frozen=True)
class Rounded:
    """Integers [G, N, K] and their scales [G, N, S], S groups of inputs."""

    integers: Tensor
    scales: Tensor
    levels: Levels

    @property
    def weight(self) -> Tensor:
        """What the integers stand for."""
        return self.integers * self.levels.spread(self.scales, self.integers.shape[-1])


def round_weight(
    weight: Tensor, gram: Tensor | None, levels: Levels, way: Way = "nearest", mask: Tensor | None = None,
    damping: float = DAMPING,
) -> Rounded:
    """Round `weight` [G, N, K] given the second moments `gram` [G, K, K] of its inputs (None: only to the nearest, inputs
    counting alike). `mask` [G, N, K]: where it is false the integer is 0."""
    import torch

    importance = torch.ones_like(weight[:, 0]) if gram is None else damped(gram, damping).diagonal(dim1=-2, dim2=-1)
    scales = choose_scales(weight, importance, levels)
    steps = levels.spread(scales, weight.shape[-1])
    if gram is None or way == "nearest":
        return Rounded(_held(_nearest(weight, steps, levels), mask), scales, levels)
    known = damped(gram, damping)
    found = Rounded(_feed_back(weight, known, steps, levels, mask), scales, levels)
    return learn(weight, known, found, mask) if way == "learned" else found


def choose_scales(weight: Tensor, importance: Tensor, levels: Levels) -> Tensor:
    """Scales [G, N, S] with the least squared rounding error, each input weighing `importance` [G, K], among those that
    map shares of the largest magnitude to the largest integer."""
    import torch

    groups, rows, width = weight.shape
    size = levels.group or width
    data = weight.reshape(groups, rows, width // size, size)
    weighing = importance.reshape(groups, 1, width // size, size)
    magnitude = data.abs().amax(-1)
    tiny = torch.finfo(torch.float32).tiny
    best = torch.full_like(magnitude, torch.inf)
    scales = torch.ones_like(magnitude)
    least = 0.25 if levels.high < 4 else 0.5 if levels.high < 16 else 0.85
    for shrink in torch.linspace(least, 1.0, _SHRINKS if levels.high < 16 else 4).flip(0).tolist():
        trial = torch.where(magnitude == 0, 1.0, (magnitude * shrink / levels.high).clamp(min=tiny)).float().double()
        error = (_nearest(data, trial[..., None], levels) * trial[..., None] - data).square()
        total = (error * weighing).sum(-1)
        scales = torch.where(total < best, trial, scales)
        best = torch.minimum(total, best)
    return scales


def learn(weight: Tensor, gram: Tensor, start: Rounded, mask: Tensor | None = None, sweeps: int = SWEEPS) -> Rounded:
    """Integers and scales that no single change improves (or after so many sweeps): each integer in turn goes to the best
    one given the others, then each scale. The error tr((W - Q) gram (W - Q)^T) never rises."""
    levels = start.levels
    integers, scales = start.integers.clone(), start.scales.clone()
    for _ in range(sweeps):
        slopes = (weight - integers * levels.spread(scales, weight.shape[-1])) @ gram
        _learn_scales(integers, scales, slopes, gram)
        if not _learn_integers(integers, levels.spread(scales, weight.shape[-1]), slopes, gram, levels, mask):
            break
    return Rounded(integers, scales, levels)


def _learn_scales(integers: Tensor, scales: Tensor, slopes: Tensor, gram: Tensor) -> None:
    """Set each scale to the best one given the others. slopes: (W - Q) gram, kept up to date."""
    import torch

    size = integers.shape[-1] // scales.shape[-1]
    for s in range(scales.shape[-1]):
        part = slice(s * size, (s + 1) * size)
        q = integers[..., part]
        product = q @ gram[:, part]
        curvature = (product[..., part] * q).sum(-1)
        step = torch.where(curvature > 0, (slopes[..., part] * q).sum(-1) / curvature, 0.0)
        new = (scales[..., s] + step).float().double()
        step = torch.where(new > torch.finfo(torch.float32).tiny, new - scales[..., s], 0.0)
        scales[..., s] += step
        slopes -= step[..., None] * product


def _learn_integers(
    integers: Tensor, steps: Tensor, slopes: Tensor, gram: Tensor, levels: Levels, mask: Tensor | None
) -> bool:
    """One visit of every integer; returns whether any changed. slopes: (W - Q) gram, kept up to date."""
    import torch

    width = integers.shape[-1]
    curvature = gram.diagonal(dim1=-2, dim2=-1)
    changed = False
    for begin in range(0, width, _BLOCK):
        part = slice(begin, min(width, begin + _BLOCK))
        near, own = slopes[..., part].clone(), gram[:, part, part]
        moved = torch.zeros_like(near)
        for i in range(near.shape[-1]):
            j = begin + i
            wish = integers[..., j] + near[..., i] / (curvature[:, None, j] * steps[..., j])
            new = wish.round().clamp(levels.low, levels.high)
            if mask is not None:
                new = torch.where(mask[..., j], new, 0.0)
            change = (new - integers[..., j]) * steps[..., j]
            integers[..., j] = new
            moved[..., i] = change
            near -= change[..., None] * own[:, None, i]
        changed = changed or bool(moved.any())
        slopes -= moved @ gram[:, part]
    return changed


def _nearest(weight: Tensor, steps: Tensor, levels: Levels) -> Tensor:
    return (weight / steps).round().clamp(levels.low, levels.high)


def _held(integers: Tensor, mask: Tensor | None) -> Tensor:
    import torch

    return integers if mask is None else torch.where(mask, integers, 0.0)


def _feed_back(weight: Tensor, gram: Tensor, steps: Tensor, levels: Levels, mask: Tensor | None) -> Tensor:
    """Integers by error feedback. Rows that share a mask are solved on the inputs they keep; where there are too many
    different masks, masked weights are rounded to zero in their turn."""
    import torch

    if mask is None or bool(mask.all()):
        return _columns(weight, gram, steps, levels, None)
    if weight.shape[0] == 1:
        patterns, owner = torch.unique(mask[0], dim=0, return_inverse=True)
        if len(patterns) <= _PATTERNS:
            out = torch.zeros_like(weight)
            for index, pattern in enumerate(patterns):
                rows, keep = (owner == index).nonzero()[:, 0], pattern.nonzero()[:, 0]
                if keep.numel():
                    place = (0, rows[:, None], keep[None, :])
                    own = gram[:, keep][:, :, keep]
                    out[place] = _columns(weight[place][None], own, steps[place][None], levels, None)[0]
            return out
    return _columns(weight, gram, steps, levels, mask)


def _columns(weight: Tensor, gram: Tensor, steps: Tensor, levels: Levels, mask: Tensor | None) -> Tensor:
    """Integers column by column, those of the largest inputs first; the error of each is spread over the columns still to
    come in the proportions that change the output least."""
    import torch

    order = gram.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True, stable=True)
    across = order[:, None, :].expand(weight.shape)
    left, scale = weight.gather(-1, across), steps.gather(-1, across)
    allowed = None if mask is None else mask.gather(-1, across)
    width = weight.shape[-1]
    square = gram.gather(-2, order[:, :, None].expand(gram.shape)).gather(-1, order[:, None, :].expand(gram.shape))
    factor = _inverse_factor(square)
    integers = torch.zeros_like(left)
    for begin in range(0, width, _BLOCK):
        end = min(width, begin + _BLOCK)
        near, spread = left[..., begin:end].clone(), factor[:, begin:end]
        errors = torch.zeros_like(near)
        for i in range(end - begin):
            j = begin + i
            chosen = _nearest(near[..., i], scale[..., j], levels)
            if allowed is not None:
                chosen = torch.where(allowed[..., j], chosen, 0.0)
            integers[..., j] = chosen
            error = (near[..., i] - chosen * scale[..., j]) / spread[:, None, i, j]
            errors[..., i] = error
            near[..., i:] -= error[..., None] * spread[:, None, i, j:end]
        left[..., end:] -= errors @ spread[..., end:]
    return torch.zeros_like(integers).scatter(-1, across, integers)


def _inverse_factor(gram: Tensor) -> Tensor:
    """The upper triangular U with U^T U = gram^-1 [G, K, K]; more is added to the diagonal until gram is surely positive
    definite."""
    import torch

    flipped, extra = gram.flip((-2, -1)), 0.0
    while True:
        lower, info = torch.linalg.cholesky_ex(damped(flipped, extra) if extra else flipped)
        if not bool(info.any()):
            break
        extra = max(extra * 10, 1e-6)
    upper = lower.flip((-2, -1))
    one = torch.eye(gram.shape[-1], dtype=gram.dtype).expand(gram.shape)
    return torch.linalg.solve_triangular(upper, one, upper=True)
