"""Inputs without labels, cut into minibatches, some of them held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcomp.ir.dims import Expr, sym, symbols
from mcomp.ir.graph import Value
from mcomp.ir.types import TensorType, Type

HELD = 1024
_LEAST_PART = 4
"""A remainder of less than one of so many parts of a minibatch is left out."""
_GROWN = 512
"""Samples that new ones are made from at once."""


@dataclass(frozen=True)
class Minibatch:
    """Samples to go through a graph at once: rows of a group of samples of one shape."""

    group: int
    rows: tuple[int, ...]


class Samples:
    """A table of samples: batches of tensors (columns), taken apart into rows where `batched` says which columns have a
    row for each sample (the others are the same for all), or whole batches where it is None.

    Samples of one shape are a group; minibatches of up to `size` are drawn within groups. A share `held` of every group,
    less where that would be more than `HELD` samples in all, drawn by `seed`, is kept apart (at least one sample in all,
    none when there are fewer than `LEAST`).
    """

    LEAST = 4

    def __init__(
        self, batches: Sequence[Sequence[Any]], batched: Sequence[bool] | None, *, size: int, held: float, seed: int
    ) -> None:
        self.size = size
        self.seed = seed
        self.batched = None if batched is None else tuple(batched)
        self.cycle = 0
        """After so many epochs the same minibatches come again; 0: never."""
        self._groups = _grouped([[recorded(t) for t in batch] for batch in batches], self.batched)
        counts = [_count(g, self.batched) for g in self._groups]
        self.total = sum(counts)
        generator = torch.Generator().manual_seed(seed)
        self._train: list[list[int]] = []
        self._held: list[list[int]] = []
        share = min(held, HELD / max(1, self.total)) if self.total >= self.LEAST else 0.0
        for count, cut in zip(counts, _shared_out(counts, share)):
            order = torch.randperm(count, generator=generator).tolist()
            self._held.append(sorted(order[:cut]))
            self._train.append(sorted(order[cut:]))
        if self.total >= self.LEAST and held > 0 and not any(self._held):
            largest = max(range(len(counts)), key=counts.__getitem__)
            self._held[largest].append(self._train[largest].pop())

    def grow(self, make: Callable[[list[Any]], Sequence[Any]], copies: int) -> None:
        """Add samples that are made from those not held out, `copies` times as many; they are not held out either. `make`
        gives the columns for a minibatch's. Randomness is seeded. Needs rows."""
        if self.batched is None:
            return
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            for group, rows in enumerate(self._train):
                old = self._groups[group]
                made = [make(self.columns(Minibatch(group, tuple(c)))) for _ in range(copies) for c in _chunks(rows, _GROWN)]
                count = _count(old, self.batched)
                self._groups[group] = [
                    torch.cat([column, *(m[i] for m in made)]) if own else column
                    for i, (column, own) in enumerate(zip(old, self.batched))
                ]
                self._train[group] = [*rows, *range(count, _count(self._groups[group], self.batched))]

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        tensors = [t for group in self._groups for c in group for t in (c if isinstance(c, (list, tuple)) else (c,))]
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    @property
    def trained_on(self) -> int:
        """How many samples are not held out."""
        return sum(len(g) for g in self._train)

    @property
    def held_out(self) -> int:
        """How many samples are held out."""
        return sum(len(g) for g in self._held)

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches of an epoch: as many as `epoch` gives."""
        limit, found = self._limit, 0
        for rows in self._train:
            whole, rest = divmod(len(rows), limit)
            found += whole + (rest > 0 and (not whole or rest >= limit / _LEAST_PART))
        return found

    def held(self) -> list[Minibatch]:
        """Minibatches of what is held out; of all samples when nothing is."""
        rows = self._held if self.held_out else self._train
        return [Minibatch(g, tuple(chunk)) for g, given in enumerate(rows) for chunk in _chunks(given, self._limit)]

    def epoch(self, number: int) -> list[Minibatch]:
        """The minibatches of an epoch, in an order that depends on the seed and the number (within the cycle) only. A
        remainder of less than a quarter of a minibatch is left out: the next epoch has another one."""
        number = number % self.cycle if self.cycle else number
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number + 1)
        found: list[Minibatch] = []
        for group, rows in enumerate(self._train):
            order = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
            found += [Minibatch(group, tuple(chunk)) for chunk in self._portions(order)]
        return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]

    def columns(self, batch: Minibatch) -> list[Any]:
        """The tensors of a minibatch."""
        group = self._groups[batch.group]
        if self.batched is None:
            return list(group[batch.rows[0]])
        index = torch.tensor(batch.rows)
        return [t.index_select(0, index) if own else t for t, own in zip(group, self.batched)]

    def _portions(self, rows: Sequence[int]) -> list[Sequence[int]]:
        found = _chunks(rows, self._limit)
        if len(found) > 1 and len(found[-1]) < self._limit / _LEAST_PART:
            found.pop()
        return found

    @property
    def _limit(self) -> int:
        return self.size if self.batched is not None else 1


def row_columns(inputs: Sequence[Type], outputs: Sequence[Type]) -> list[bool] | None:
    """Which inputs have a row for each sample: those whose first size is the symbol that every output begins with. None
    when samples cannot be told apart: no such symbol, or an input or output that mentions it elsewhere."""
    first = {t.shape[0] for t in outputs if isinstance(t, TensorType) and t.shape}
    if len(first) != 1 or not all(isinstance(t, TensorType) and t.shape for t in outputs):
        return None
    batch = next(iter(first))
    if not isinstance(batch, Expr) or batch != sym(next(iter(symbols(batch)))):
        return None
    if any(symbols(d) & symbols(batch) for t in outputs if isinstance(t, TensorType) for d in t.shape[1:]):
        return None
    found = []
    for type in inputs:
        if not isinstance(type, TensorType):
            return None
        own = bool(type.shape) and type.shape[0] == batch
        if any(symbols(d) & symbols(batch) for d in type.shape[1 if own else 0 :]):
            return None
        found.append(own)
    return found if any(found) else None


def row_symbols(values: Sequence[Value]) -> set[str]:
    """The symbols in the first sizes of values."""
    return {s for v in values if v.tensor.shape for s in symbols(v.tensor.shape[0])}


def _shared_out(counts: Sequence[int], share: float) -> list[int]:
    """A share of every count; of those that have less than one by it, so many as are due together."""
    found: list[int] = []
    owed = 0.0
    for count in counts:
        exact = count * share
        if exact >= 1.0:
            found.append(round(exact))
            continue
        owed += exact
        found.append(min(count, round(owed)))
        owed -= found[-1]
    return found


def recorded(value: Any) -> Any:
    """What torch can keep for gradients: a copy of a tensor that was made in inference mode, anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _grouped(batches: Sequence[Sequence[Any]], batched: Sequence[bool] | None) -> list[list[Any]]:
    """With rows: for each shape of a row, the columns with all rows of that shape. Else one group: the batches."""
    if batched is None:
        return [list(batches)]
    alike: list[list[Sequence[Tensor]]] = []
    for batch in batches:
        found = next((members for members in alike if _fit(members[0], batch, batched)), None)
        if found is None:
            alike.append([batch])
        else:
            found.append(batch)
    groups = []
    for members in alike:
        columns = list(zip(*members))
        groups.append([
            torch.cat(column) if own and len(members) > 1 else column[0] for column, own in zip(columns, batched)
        ])
    return groups


def _fit(first: Sequence[Tensor], batch: Sequence[Tensor], batched: Sequence[bool]) -> bool:
    """Whether rows of two batches can be mixed."""
    for a, b, own in zip(first, batch, batched):
        if a.dtype != b.dtype or a.shape[int(own):] != b.shape[int(own):] or (not own and not torch.equal(a, b)):
            return False
    return True


def _count(group: Sequence[Any], batched: Sequence[bool] | None) -> int:
    if batched is None:
        return len(group)
    return next(int(t.shape[0]) for t, own in zip(group, batched) if own)


def _chunks(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
