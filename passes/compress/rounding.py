"""How the weights of a layer are rounded for `quantize`: to the nearest, or by what calibration shows of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mcomp.ir.encoding import Affine, Encoding
from mcomp.ir.graph import Node
from mcomp.ir.types import TensorType
from mcomp.passes.compress.encode import encode_rounded, levels_of, nonzero_mask, with_integers
from mcomp.passes.compress.feedback import Way, round_weight
from mcomp.passes.compress.moments import MomentSource
from mcomp.passes.compress.samples import error_by_row

if TYPE_CHECKING:
    from torch import Tensor

Rounding = Literal["auto", "nearest", "feedback", "learned"]

WEIGHTS_MATTER = 0.01
"""The error from rounding 8-bit weights to the nearest from which other ways are tried by themselves."""


@dataclass(frozen=True)
class Coded:
    """A weight after rounding: its encoding and buffers, what they decode to (f32, in the weight's shape), and how it was
    rounded."""

    encoding: Encoding
    parts: dict[str, np.ndarray]
    weight: Tensor
    way: Way


class Rounder:
    """Rounds the weights of layers; each layer once for the same smoothing. Where `moments` knows nothing of a layer, its
    weights go to the nearest."""

    def __init__(self, rounding: Rounding, moments: MomentSource | None) -> None:
        self.rounding = rounding
        self.moments = moments
        self._known: dict[tuple[Node, bool], Coded] = {}

    def matters(self, node: Node, weight: Tensor, affine: Affine, rows: Tensor) -> bool:
        """Whether more than rounding to the nearest is to be tried for a layer: where that was asked for, below 8 bits,
        and where the nearest integers change the output by more than a little."""
        if self.rounding != "auto" or affine.dtype.bits < 8:
            return self.rounding != "nearest"
        return self._error(node, rows, self._round(node, weight, affine, None, "nearest").weight, weight) > WEIGHTS_MATTER

    def __call__(self, node: Node, weight: Tensor, affine: Affine, rows: Tensor, factors: Tensor | None) -> Coded:
        """The weight of a layer, rounded. `weight` f32 in its shape; `rows`: sample inputs of the layer; both with the
        smoothing `factors` (inputs were divided by them) applied."""
        key = (node, factors is None)
        if key not in self._known:
            self._known[key] = self._best(node, weight, affine, rows, factors)
        return self._known[key]

    def _best(self, node: Node, weight: Tensor, affine: Affine, rows: Tensor, factors: Tensor | None) -> Coded:
        if self.rounding != "auto":
            return self._round(node, weight, affine, factors, self.rounding)
        best = self._round(node, weight, affine, factors, "nearest")
        if self.moments is None or self.moments(node) is None:
            return best
        error = self._error(node, rows, best.weight, weight)
        ways: tuple[Way, ...] = ("feedback", "learned")
        for way in ways:
            trial = self._round(node, weight, affine, factors, way)
            found = self._error(node, rows, trial.weight, weight)
            if found < error:
                best, error = trial, found
        return best

    def _error(self, node: Node, rows: Tensor, rough: Tensor, exact: Tensor) -> float:
        outputs = [node.op.reference([rows, w, None], node.attrs) for w in (rough, exact)]
        return error_by_row(*outputs)

    def _round(self, node: Node, weight: Tensor, affine: Affine, factors: Tensor | None, way: Way) -> Coded:
        import torch

        stored = node.operand(1).weight
        assert stored is not None
        groups = node.attrs.get("groups", 1)
        matrix = weight.double().reshape(groups, weight.shape[0] // groups, -1)
        mask = nonzero_mask(stored)
        mask = None if mask is None else mask.reshape(matrix.shape)
        gram = None
        if way != "nearest" and self.moments is not None:
            found = self.moments(node)
            gram = None if found is None else found.gram
            if gram is not None and factors is not None:
                scale = factors.double()
                gram = gram / (scale[:, None] * scale)
        rounded = round_weight(matrix, gram, levels_of(affine), way, mask)
        encoding = with_integers(stored.type.encoding, affine)
        parts = encode_rounded(rounded, encoding, stored)
        decoded = encoding.decode(parts, TensorType(stored.type.shape, stored.type.dtype, encoding))
        return Coded(encoding, parts, torch.from_numpy(np.array(decoded, np.float32)), "nearest" if gram is None else way)
