"""Memory for one set of sizes: every temporary buffer gets a place in one pool; places are shared by what is not alive at
the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcomp.backends.triton.access import Buffer, Coded, Place, View
from mcomp.backends.triton.program import Launch, TorchStep
from mcomp.ir import dims
from mcomp.ir.dims import Dim

ALIGN = 256
"""Every buffer starts at a multiple of so many bytes."""


@dataclass(frozen=True)
class Plan:
    """Offsets of temporary buffers in the pool, and its bytes. Buffers whose size is not known yet have no place."""

    offsets: Mapping[Buffer, int]
    nbytes: int


def plan_memory(steps: Sequence[Launch | TorchStep], symbols: Mapping[str, int]) -> Plan:
    """Places by first fit, largest buffers first among those that are alive at a time (Pisarchyk and Lee,
    arXiv 2001.03288, greedy by size)."""
    spans: dict[Buffer, list[int]] = {}
    for i, step in enumerate(steps):
        for buffer in buffers_of(step):
            if buffer.kind == "temp" and dims.symbols(buffer.numel) <= symbols.keys():
                spans.setdefault(buffer, [i, i])[1] = i
    sizes = {b: _aligned(size_of(b.nbytes, symbols)) for b in spans}
    placed: list[tuple[int, int, int, int]] = []  # first, last, offset, end
    offsets: dict[Buffer, int] = {}
    total = 0
    for buffer in sorted(spans, key=lambda b: (-sizes[b], spans[b])):
        first, last = spans[buffer]
        offset = 0
        for _, _, start, end in sorted((p for p in placed if p[0] <= last and p[1] >= first), key=lambda p: p[2]):
            if start - offset >= sizes[buffer]:
                break
            offset = max(offset, end)
        offsets[buffer] = offset
        placed.append((first, last, offset, offset + sizes[buffer]))
        total = max(total, offset + sizes[buffer])
    return Plan(offsets, total)


def buffers_of(step: Launch | TorchStep) -> list[Buffer]:
    """All buffers of a step."""
    if isinstance(step, Launch):
        return [b for _, b, _ in step.pointers]
    return [v.buffer for place in (*step.inputs, *step.outputs) if place is not None for v in views_of(place)]


def views_of(place: Place) -> list[View]:
    """The views of a place."""
    return [v for _, v in place.parts] if isinstance(place, Coded) else [place]


def size_of(dim: Dim, values: Mapping[str, int]) -> int:
    """The value of a dim; what is divided by a size of zero belongs to an empty tensor, and counts as nothing."""
    try:
        return dims.evaluate(dim, values)
    except ZeroDivisionError:
        return 0


def _aligned(count: int) -> int:
    return -(-count // ALIGN) * ALIGN
