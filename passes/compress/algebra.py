"""Least squares on second-moment matrices: damped solutions, roots, refits of weights. Everything in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 1e-4
"""What is added to the diagonal of a matrix before it is inverted, as a share of the diagonal's mean."""
_FLOOR = 1e-10
"""Eigenvalues count as no smaller than this share of the largest."""


def damped(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """`gram` [..., K, K] plus `damping` times the mean of its diagonal; an all-zero matrix becomes the identity."""
    import torch

    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    extra = torch.where(mean > 0, mean * damping, 1.0)
    return gram + extra[..., None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype)


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., K], ascending and raised to a small share of the largest, and eigenvectors [..., K, K]."""
    import torch

    values, vectors = torch.linalg.eigh((gram + gram.transpose(-1, -2)) / 2)
    floor = values[..., -1:].clamp(min=0) * _FLOOR
    return torch.where(floor > 0, torch.maximum(values, floor), torch.ones_like(values)), vectors


def solve(gram: Tensor, right: Tensor, damping: float = DAMPING) -> Tensor:
    """x with (gram + damping) x = right, for a symmetric positive semidefinite gram [..., K, K] and right [..., K, N]."""
    import torch

    matrix = damped(gram, damping)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not bool(info.any()):
        return torch.cholesky_solve(right, factor)
    values, vectors = spectrum(matrix)
    return vectors @ ((vectors.transpose(-1, -2) @ right) / values[..., None])


def whiten(gram: Tensor, damping: float = 0.0) -> tuple[Tensor, Tensor]:
    """The symmetric root R of gram [..., K, K] (R R = gram, damped) and its inverse; R times its inverse is the identity
    even where gram is singular, whose small eigenvalues are raised first."""
    values, vectors = spectrum(damped(gram, damping) if damping else gram)
    roots, back = values.sqrt(), vectors.transpose(-1, -2)
    return (vectors * roots[..., None, :]) @ back, (vectors / roots[..., None, :]) @ back


def output_error(delta: Tensor, gram: Tensor) -> float:
    """E|delta x|^2 for a change of weights delta [..., N, K] and second moments gram [..., K, K] of x: the expected
    squared change of a layer's output at one position (token, pixel), over all outputs."""
    return max(0.0, float(((delta @ gram) * delta).sum()))


def relative_error(delta: Tensor, weight: Tensor, gram: Tensor) -> float:
    """The relative L2 change of W x when `weight` [..., N, K] changes by `delta`; infinite where W x is zero and its change
    is not."""
    change, whole = output_error(delta, gram), output_error(weight, gram)
    if whole <= 0.0:
        return 0.0 if change <= 0.0 else float("inf")
    return (change / whole) ** 0.5


def refit(weight: Tensor, gram: Tensor, keep: Tensor, damping: float = DAMPING, mean: Tensor | None = None) -> Tensor:
    """Weights W' [..., N, len(keep)] of the inputs `keep` (indices) with the least E|W x - W' x_keep|^2: the weights of
    the kept inputs plus what these can say about the removed ones. Damping pulls towards the kept weights.

    weight: [..., N, K]; gram: [..., K, K]. With `mean` [..., K], moments around the mean are used, because a bias takes up
    the rest (`bias_shift`). Optimal brain surgeon's closed form for a set of inputs (Hassibi & Stork 1993).
    """
    import torch

    moments = gram if mean is None else centered(gram, mean)
    gone = torch.ones(gram.shape[-1], dtype=torch.bool)
    gone[keep] = False
    removed = gone.nonzero().reshape(-1)
    kept = weight[..., keep]
    if removed.numel() == 0 or keep.numel() == 0:
        return kept.clone()
    rows = moments.index_select(-2, keep)
    coefficients = solve(rows.index_select(-1, keep), rows.index_select(-1, removed), damping)
    refitted: Tensor = kept + weight[..., removed] @ coefficients.transpose(-1, -2)
    return refitted


def bias_shift(weight: Tensor, new: Tensor, keep: Tensor, mean: Tensor) -> Tensor:
    """What a bias gains [..., N] so that the mean output stays when `weight` [..., N, K] becomes `new` [..., N, len(keep)]
    on the inputs `keep`, whose means (all K) are `mean` [..., K]."""
    before = (weight @ mean[..., None])[..., 0]
    after = (new @ mean.index_select(-1, keep)[..., None])[..., 0]
    return before - after


def centered(gram: Tensor, mean: Tensor) -> Tensor:
    """Second moments around the mean [..., K, K]."""
    return gram - mean[..., :, None] * mean[..., None, :]
