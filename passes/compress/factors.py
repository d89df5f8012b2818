"""Low-rank factors of linear layers and convolutions, with the least error of the output rather than of the weight.

Three schemes, all from second moments C of the inputs (around their mean where a bias takes that up):

    channel  W = U (U^T W): the principal outputs. U are eigenvectors of W C W^T, which gives the same product as the
             singular value decomposition of W C^(1/2), without an inverse. A convolution k x k to r channels, then 1 x 1;
             for a linear, two linears.
    spatial  k x 1 to r channels, then 1 x k (Jaderberg, Vedaldi, Zisserman, BMVC 2014)
    tucker   1 x 1 to r channels, k x k to s channels, then 1 x 1 (Tucker-2: Kim et al., ICLR 2016)

The last two are whitened by the moments of channels, averaged over positions of the kernel, and what follows the first
factor is then solved by least squares on all of C. All computation is in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from mcomp.passes.compress.algebra import DAMPING, output_error, solve, spectrum, whiten
from mcomp.passes.compress.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor

Scheme = Literal["channel", "spatial", "tucker"]

_INPUT_SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Shares of the input channels that are tried for the first rank of tucker."""


@dataclass(frozen=True)
class Factors:
    """Layers that stand for one, in their order: weights, and attributes for convolutions (None: linear).

    `weight` [N, K]: their product. `shift` [N]: what the bias gains; None where it cannot. `error`: relative L2 change of
    the output, the shift included.
    `operations`: multiplications for each position of the result; `dense_operations` those of the layer.
    """

    scheme: Scheme
    ranks: tuple[int, ...]
    weights: tuple[Tensor, ...]
    attrs: tuple[Mapping[str, Any] | None, ...]
    weight: Tensor
    shift: Tensor | None
    error: float
    operations: float
    dense_operations: float

    @property
    def share(self) -> float:
        """Operations as a share of the layer's."""
        return self.operations / max(1.0, self.dense_operations)


class Decomposer:
    """Factors of one layer at any rank; decompositions are made once. `weight` in its shape, float64; `attrs` of a
    convolution with one group, None for a linear. `centre`: the bias takes up the mean."""

    def __init__(
        self, weight: Tensor, moments: Moments, attrs: Mapping[str, Any] | None = None, *, centre: bool = True
    ) -> None:
        self.shape = tuple(weight.shape)
        self.attrs = attrs
        self.matrix = weight.reshape(weight.shape[0], -1)
        self.gram = (moments.covariance if centre else moments.gram)[0]
        self.mean = moments.mean[0] if centre else None
        self.energy = output_error(self.matrix, moments.gram[0])
        self._inputs: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The schemes that suit the layer's shape."""
        return schemes_for(self.shape)

    @property
    def dense_operations(self) -> float:
        return float(self.matrix.numel())

    def full_rank(self, scheme: Scheme) -> int:
        """The rank at which a scheme is exact (tucker: that of its outputs)."""
        return full_rank(scheme, self.shape)

    def factors(self, scheme: Scheme, ranks: Sequence[int]) -> Factors:
        """Factors of given ranks (tucker: inputs, outputs; else one)."""
        if scheme == "channel":
            return self._channel(ranks[0])
        return self._spatial(ranks[0]) if scheme == "spatial" else self._tucker(ranks[0], ranks[1])

    def within_error(self, scheme: Scheme, error: float) -> Factors | None:
        """The factors with the fewest operations whose error is at most `error`; None where none are."""
        if scheme == "channel":
            rank = self._ranks_needed(self.outputs[0], 0.0, error)
            return None if rank is None else self._channel(rank)
        if scheme == "tucker":
            found = [f for r in self._input_ranks() if (f := self._tucker_within(r, error)) is not None]
            return min(found, key=lambda f: f.operations, default=None)
        low, high, best = 1, self._steps("spatial"), None
        while low <= high:
            middle = (low + high) // 2
            trial = self._spatial(self._stepped("spatial", middle))
            if trial.error <= error:
                best, high = trial, middle - 1
            else:
                low = middle + 1
        return best

    def within_operations(self, scheme: Scheme, share: float) -> Factors | None:
        """The factors with the least error whose operations are at most that share of the layer's; None where none are."""
        budget = share * self.dense_operations
        if scheme == "tucker":
            found = [f for r in self._input_ranks() if (f := self._tucker_cheap(r, budget)) is not None]
            return min(found, key=lambda f: f.error, default=None)
        fitting = [r for s in range(1, self._steps(scheme) + 1)
                   if self._operations(scheme, (r := self._stepped(scheme, s),)) <= budget]
        return self.factors(scheme, (max(fitting),)) if fitting else None

    def choices(self, shares: Sequence[float]) -> list[Factors]:
        """For each share of the layer's operations the factors with the least error, over all schemes; each once."""
        found: dict[tuple[Scheme, tuple[int, ...]], Factors] = {}
        for share in shares:
            fitting = [f for scheme in self.schemes if (f := self.within_operations(scheme, share)) is not None]
            if fitting:
                best = min(fitting, key=lambda f: f.error)
                found[best.scheme, best.ranks] = best
        return list(found.values())

    # the outputs' principal directions

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Variances of the principal outputs, largest first, and their directions as columns."""
        return _principal(self.matrix @ self.gram @ self.matrix.T)

    def _ranks_needed(self, variances: Tensor, already: float, error: float) -> int | None:
        """The fewest principal outputs, rounded up, that leave at most a relative `error`, of which the square `already`
        (absolute) is there anyway."""
        allowed = error * error * self.energy - already
        if allowed < 0:
            return None
        tails = variances.flip(0).cumsum(0).flip(0)
        needed = int((tails > allowed).sum())
        step = rank_step(len(variances))
        return min(len(variances), max(step, -(-needed // step) * step))

    def _channel(self, rank: int) -> Factors:
        variances, directions = self.outputs
        out, inner = _balanced(directions[:, :rank], variances[:rank], self.matrix)
        first, last = inner.reshape(rank, *self.shape[1:]), out.reshape(self.shape[0], rank, *(1 for _ in self.shape[2:]))
        attrs = (None, None) if self.attrs is None else (self.attrs, pointwise(len(self.shape) - 2))
        return self._result("channel", (rank,), (first, last), attrs, out @ inner)

    # spatial

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weight as [inputs * kernel rows, outputs * kernel columns], variances and directions of its principal
        combinations of (output, kernel column)."""
        outputs, inputs, high, wide = self.shape
        matrix = self.matrix.reshape(self.shape).permute(1, 2, 0, 3).reshape(inputs * high, outputs * wide)
        window = self.gram.reshape(inputs * high, wide, inputs * high, wide)
        own = window.diagonal(dim1=1, dim2=3).sum(-1)
        return (matrix, *_principal(matrix.T @ own @ matrix))

    def _spatial(self, rank: int) -> Factors:
        import torch

        outputs, inputs, high, wide = self.shape
        matrix, variances, directions = self._columns
        scale = _quarter_root(variances[:rank])
        first = (matrix @ directions[:, :rank] / scale).T
        last = (directions[:, :rank] * scale).reshape(outputs, wide, rank).transpose(1, 2)
        window = self.gram.reshape(inputs * high, wide, inputs * high, wide)
        inner = torch.einsum("ra,axby,sb->rxsy", first, window, first).reshape(rank * wide, rank * wide)
        weighted = (self.matrix @ self.gram).reshape(outputs, inputs * high, wide)
        cross = torch.einsum("oax,ra->orx", weighted, first).reshape(outputs, rank * wide)
        flat = last.reshape(outputs, rank * wide)
        flat = flat + solve(inner, (cross - flat @ inner).T, DAMPING).T
        last = flat.reshape(outputs, rank, wide)
        product = torch.einsum("orx,ra->oax", last, first).reshape(outputs, -1)
        assert self.attrs is not None
        attrs = spatial_attrs(self.attrs)
        weights = (first.reshape(rank, inputs, high, 1), last.reshape(outputs, rank, 1, wide))
        return self._result("spatial", (rank,), weights, attrs, product)

    # tucker

    @cached_property
    def _channels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Principal combinations of input channels: the root of their moments, its inverse, directions as columns."""
        inputs, window = self.shape[1], prod(self.shape[2:])
        own = self.gram.reshape(inputs, window, inputs, window).diagonal(dim1=1, dim2=3).sum(-1)
        root, inverse = whiten(own, DAMPING)
        matrix = root @ self.matrix.reshape(self.shape[0], inputs, window).transpose(0, 1).reshape(inputs, -1)
        return root, inverse, _principal(matrix @ matrix.T)[1]

    def _reduced(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """For so many combined input channels: the combinations [rank, inputs], the best weights on them [N, rank * kernel],
        and the moments there."""
        import torch

        if rank not in self._inputs:
            inputs, window = self.shape[1], prod(self.shape[2:])
            root, inverse, directions = self._channels
            chosen = directions[:, :rank]
            first = chosen.T @ inverse
            start = torch.einsum("ri,oip->orp", chosen.T @ root, self.matrix.reshape(-1, inputs, window))
            full = self.gram.reshape(inputs, window, inputs, window)
            inner = torch.einsum("ri,ipjq,sj->rpsq", first, full, first).reshape(rank * window, rank * window)
            weighted = (self.matrix @ self.gram).reshape(-1, inputs, window)
            cross = torch.einsum("oip,ri->orp", weighted, first).reshape(-1, rank * window)
            flat = start.reshape(-1, rank * window)
            self._inputs[rank] = first, flat + solve(inner, (cross - flat @ inner).T, DAMPING).T, inner
        return self._inputs[rank]

    def _tucker(self, inputs: int, outputs: int) -> Factors:
        first, core, inner = self._reduced(inputs)
        variances, directions = _principal(core @ inner @ core.T)
        out, middle = _balanced(directions[:, :outputs], variances[:outputs], core)
        window = self.shape[2:]
        product = ((out @ middle).reshape(-1, inputs, prod(window)).transpose(1, 2) @ first).transpose(1, 2)
        ones = tuple(1 for _ in window)
        weights = (
            first.reshape(inputs, self.shape[1], *ones), middle.reshape(outputs, inputs, *window),
            out.reshape(self.shape[0], outputs, *ones),
        )
        attrs = (pointwise(len(self.shape) - 2), self.attrs, pointwise(len(self.shape) - 2))
        return self._result("tucker", (inputs, outputs), weights, attrs, product.reshape(self.shape[0], -1))

    def _tucker_within(self, inputs: int, error: float) -> Factors | None:
        first, core, inner = self._reduced(inputs)
        product = (core.reshape(self.shape[0], inputs, -1).transpose(1, 2) @ first).transpose(1, 2)
        lost = output_error(self.matrix - product.reshape(self.matrix.shape), self.gram)
        rank = self._ranks_needed(_principal(core @ inner @ core.T)[0], lost, error)
        return None if rank is None else self._tucker(inputs, rank)

    def _tucker_cheap(self, inputs: int, budget: float) -> Factors | None:
        fitting = [r for s in range(1, self._steps("tucker") + 1)
                   if self._operations("tucker", (inputs, r := self._stepped("tucker", s))) <= budget]
        return self._tucker(inputs, max(fitting)) if fitting else None

    def _input_ranks(self) -> list[int]:
        inputs = self.shape[1]
        step = rank_step(inputs)
        return sorted({min(inputs, max(step, round(share * inputs / step) * step)) for share in _INPUT_SHARES})

    # counting

    def _steps(self, scheme: Scheme) -> int:
        full = self.full_rank(scheme)
        return -(-full // rank_step(full))

    def _stepped(self, scheme: Scheme, step: int) -> int:
        full = self.full_rank(scheme)
        return min(full, step * rank_step(full))

    def _operations(self, scheme: Scheme, ranks: Sequence[int]) -> float:
        """Multiplications for each position of the result."""
        outputs, inputs, *kernel = self.shape
        if scheme == "channel":
            return float(ranks[0] * (self.matrix.shape[1] + outputs))
        assert self.attrs is not None
        stride = self.attrs["stride"]
        if scheme == "spatial":
            return float(ranks[0] * (inputs * kernel[0] * stride[1] + outputs * kernel[1]))
        return float(inputs * ranks[0] * prod(stride) + ranks[0] * ranks[1] * prod(kernel) + ranks[1] * outputs)

    def _result(
        self, scheme: Scheme, ranks: tuple[int, ...], weights: tuple[Tensor, ...],
        attrs: tuple[Mapping[str, Any] | None, ...], product: Tensor,
    ) -> Factors:
        lost = output_error(self.matrix - product, self.gram)
        error = (lost / self.energy) ** 0.5 if self.energy > 0 else 0.0
        shift = None if self.mean is None else (self.matrix - product) @ self.mean
        return Factors(scheme, ranks, tuple(w.contiguous() for w in weights), attrs, product, shift, error,
                       self._operations(scheme, ranks), self.dense_operations)


def schemes_for(shape: Sequence[int]) -> tuple[Scheme, ...]:
    """The schemes that suit a weight of some shape."""
    kernel = shape[2:]
    if prod(kernel) == 1:
        return ("channel",)
    return ("channel", "tucker", "spatial") if len(kernel) == 2 and min(kernel) > 1 else ("channel", "tucker")


def full_rank(scheme: Scheme, shape: Sequence[int]) -> int:
    """The rank at which a scheme is exact for a weight of some shape (tucker: that of its outputs)."""
    outputs, inputs, *kernel = shape
    if scheme == "spatial":
        return min(inputs * kernel[0], outputs * kernel[1])
    return min(outputs, inputs * prod(kernel))


def pointwise(count: int) -> Mapping[str, Any]:
    """Attributes of a convolution with a kernel of one position over so many axes."""
    return {"stride": (1,) * count, "padding": ((0, 0),) * count, "dilation": (1,) * count, "groups": 1}


def spatial_attrs(attrs: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Attributes of the two convolutions, along rows and along columns, of one over both."""
    (stride_h, stride_w), (pad_h, pad_w), (down, across) = attrs["stride"], attrs["padding"], attrs["dilation"]
    return (
        {"stride": (stride_h, 1), "padding": (pad_h, (0, 0)), "dilation": (down, 1), "groups": 1},
        {"stride": (1, stride_w), "padding": ((0, 0), pad_w), "dilation": (1, across), "groups": 1},
    )


def factor_shapes(
    scheme: Scheme, ranks: Sequence[int], shape: Sequence[int], attrs: Mapping[str, Any] | None
) -> list[tuple[tuple[int, ...], Mapping[str, Any] | None]]:
    """Shapes of the weights, and attributes of the convolutions (None: linear), of a layer's factors."""
    outputs, inputs, *kernel = shape
    ones = (1,) * len(kernel)
    flat = None if attrs is None else pointwise(len(kernel))
    if scheme == "channel":
        return [((ranks[0], inputs, *kernel), attrs), ((outputs, ranks[0], *ones), flat)]
    assert attrs is not None
    if scheme == "spatial":
        first, last = spatial_attrs(attrs)
        return [((ranks[0], inputs, kernel[0], 1), first), ((outputs, ranks[0], 1, kernel[1]), last)]
    return [((ranks[0], inputs, *ones), flat), ((ranks[1], ranks[0], *kernel), attrs), ((outputs, ranks[1], *ones), flat)]


def rank_step(full: int) -> int:
    """What ranks are multiples of: the kernels' panels are 16 columns wide, and narrow layers have no room for that."""
    return 16 if full >= 96 else 8 if full >= 32 else 4 if full >= 8 else 1


def _principal(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Variances, largest first, and directions as columns."""
    values, vectors = spectrum(moments)
    return values.flip(-1), vectors.flip(-1)


def _quarter_root(variances: Tensor) -> Tensor:
    import torch

    return torch.where(variances > 0, variances, 1.0) ** 0.25


def _balanced(directions: Tensor, variances: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """directions and directions^T matrix, with scales moved between them so that neither's differ much: both can then be
    quantized."""
    scale = _quarter_root(variances)
    return directions * scale, (directions.T @ matrix) / scale[:, None]
