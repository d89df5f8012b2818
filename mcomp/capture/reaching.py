"""Questions about where a value comes from."""

from __future__ import annotations

from mcomp.ir.graph import Value

MOVES = ("permute", "reshape", "cast", "squeeze", "unsqueeze")


def is_weight(value: Value) -> bool:
    """Whether a value is a constant, or one moved around."""
    producer = value.producer
    while producer is not None and producer.op.name in MOVES:
        source = producer.operand(0)
        value, producer = source, source.producer
    return value.is_const
