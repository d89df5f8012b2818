"""Tensors as matrices of rows along their last axis."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import Builder
from mcomp.backends.cpu.loops import collapse
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Value


@dataclass(frozen=True)
class Rows:
    """A matrix of rows in memory: its access, the number of rows, and the elements from one row to the next."""

    access: Access
    count: Dim
    step: Dim


def rows_of(value: Value, b: Builder) -> Rows:
    """A tensor as rows along its last axis, copied when its strides cannot say so."""
    access = b.read(value)
    lead = collapse(access.shape[:-1], [access.without((access.rank - 1,))]) if access.rank else None
    last_ok = access.rank > 0 and (access.strides[-1] == 1 or access.shape[-1] == 1)
    if lead is None or lead.rank > 1 or not last_ok:
        access = b.contiguous(value)
        return Rows(access, dims.product(access.shape[:-1]), access.shape[-1])
    count = dims.product(access.shape[:-1])
    step = lead.strides[0][0] if lead.rank else access.shape[-1]
    if step == 0 or (isinstance(step, int) and step < 0):
        access = b.contiguous(value)
        step = access.shape[-1]
    return Rows(access, count, step)
