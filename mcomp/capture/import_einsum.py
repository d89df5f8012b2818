"""einsum as permute, reshape and matmul."""

from __future__ import annotations

import string
from collections.abc import Sequence

from mcomp.capture.import_linear import product
from mcomp.capture.importing import Call, Decline, imports
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Value

Labelled = tuple[str, Value]


@imports("aten.einsum.default")
def einsum(call: Call) -> Value:
    tensors = [call.cast(value, call.result.dtype) for value in call["tensors"]]
    inputs, output = labels(call["equation"], [value.tensor.rank for value in tensors])
    items = list(zip(inputs, tensors, strict=True))
    for text, _ in items:
        if len(set(text)) != len(text):
            raise Decline("it takes a diagonal")
    sizes = _sizes(items)
    while len(items) > 1:
        later = set(output).union(*(text for text, _ in items[2:]))
        items = [_contract(call, items[0], items[1], later, sizes), *items[2:]]
    text, value = _summed(call, items[0], set(output))
    return call.permute(value, [text.index(label) for label in output])


def labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of every operand and of the result, with `...` written out. Raises Decline for other texts."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(ranks):
        raise Decline("its text has another number of operands")
    free = iter(sorted(set(string.ascii_letters) - set(equation)))
    widest = max((rank - len(text.replace("...", "")) for text, rank in zip(inputs, ranks) if "..." in text), default=0)
    dots = "".join(next(free) for _ in range(widest))
    written = []
    for text, rank in zip(inputs, ranks, strict=True):
        count = rank - len(text.replace("...", ""))
        written.append(text.replace("...", dots[widest - count :] if count else ""))
    if not arrow:
        counts = "".join(written)
        output = dots + "".join(sorted(c for c in set(counts) if counts.count(c) == 1 and c not in dots))
    return written, output.replace("...", dots)


def _sizes(items: Sequence[Labelled]) -> dict[str, Dim]:
    sizes: dict[str, Dim] = {}
    for text, value in items:
        for label, size in zip(text, value.tensor.shape, strict=True):
            if sizes.get(label, 1) == 1:
                sizes[label] = size
    return sizes


def _summed(call: Call, item: Labelled, kept: set[str]) -> Labelled:
    """Labels that nobody else needs are summed away."""
    text, value = item
    gone = tuple(i for i, label in enumerate(text) if label not in kept)
    if not gone:
        return item
    return "".join(label for label in text if label in kept), call.emit("sum", [value], axes=gone)


def _contract(call: Call, a: Labelled, b: Labelled, later: set[str], sizes: dict[str, Dim]) -> Labelled:
    """One product of two operands."""
    (left, x), (right, y) = _summed(call, a, later | set(b[0])), _summed(call, b, later | set(a[0]))
    batch = [c for c in left if c in right and c in later]
    inner = [c for c in left if c in right and c not in later]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    if not inner:
        return _multiply(call, (left, x), (right, y), batch + rows + columns)
    x = _stretched(call, (left, x), batch + inner, sizes)
    y = _stretched(call, (right, y), batch + inner, sizes)
    count = len(batch)
    x = call.permute(x, [left.index(c) for c in batch + rows + inner])
    y = call.permute(y, [right.index(c) for c in batch + inner + columns])
    m, n, k = (dims.product([sizes[c] for c in group]) for group in (rows, columns, inner))
    lead = x.tensor.shape[:count]
    made = product(call, call.reshape(x, (*lead, m, k)), call.reshape(y, (*lead, k, n)))
    made = call.reshape(made, (*lead, *(sizes[c] for c in rows + columns)))
    return "".join(batch + rows + columns), made


def _stretched(call: Call, item: Labelled, shared: Sequence[str], sizes: dict[str, Dim]) -> Value:
    """Shared axes of size one broadcast."""
    text, value = item
    shape = [sizes[c] if c in shared else size for c, size in zip(text, value.tensor.shape, strict=True)]
    return call.expand(value, shape)


def _multiply(call: Call, a: Labelled, b: Labelled, out: Sequence[str]) -> Labelled:
    """A product without a sum: both brought to the axes of the result, then multiplied."""
    values = []
    for text, value in (a, b):
        present = [c for c in out if c in text]
        moved = call.permute(value, [text.index(c) for c in present])
        values.append(call.unsqueeze(moved, [i for i, c in enumerate(out) if c not in text]))
    return "".join(out), call.emit("mul", values)
