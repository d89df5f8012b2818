"""What a case of the operator suite is, and how its graph, its inputs and its comparisons are made."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mcomp.ir import Bounds, Graph, TensorType
from mcomp.ir import dims as D
from mcomp.ir.dtypes import to_torch
from mcomp.ir.parser import parse_type
from mcomp.ops import Tolerance, op_named
from mcomp.ops.elementwise import ElementWise

Sizes = Mapping[str, int]
Fill = Callable[[np.random.Generator, tuple[int, ...], Sizes], np.ndarray]
"""Makes the data of one operand: random generator, shape, values of the symbols."""

TYPICAL = {"B": 3, "S": 5, "T": 4, "C": 6}
LARGER = {"B": 5, "S": 67, "T": 19, "C": 8}


@dataclass(frozen=True)
class Case:
    """One use of an operator, tried on every backend.

    `operands`: types as text, with symbolic sizes; None for an absent operand. `sizes`: values of the symbols to try;
    by default typical, larger, all one, and the first one zero (unless `empty` is false). `fills`: data by operand
    index, where plain random data does not do. `special`: whether NaN, infinities and other odd floats are tried too.
    `expect`: the result by an independent formula on numpy arrays (floats as f64), attributes as keywords. `compare`:
    what backends must agree in: `values`, or `type` alone (random numbers).
    """

    op: str
    operands: tuple[str | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    sizes: tuple[Sizes, ...] | None = None
    empty: bool = True
    fills: Mapping[int, Fill] = field(default_factory=dict)
    special: bool = True
    expect: Callable[..., Any] | None = None
    compare: str = "values"

    @property
    def id(self) -> str:
        """A name for test reports."""
        kinds = "-".join("none" if t is None else t.replace(" ", "") for t in self.operands)
        return f"{self.op}:{self.label or kinds}"

    @property
    def symbols(self) -> list[str]:
        """The symbols of the operand types and attributes, in order of appearance."""
        found: dict[str, None] = {}
        for t in self.operands:
            if t is not None:
                for d in tensor_type(t).shape:
                    found.update(dict.fromkeys(sorted(D.symbols(d))))
        for value in self.attrs.values():
            found.update(dict.fromkeys(sorted(_attr_symbols(value))))
        return list(found)

    def all_sizes(self) -> list[Sizes]:
        """Every assignment of the symbols to try."""
        if self.sizes is not None:
            return list(self.sizes)
        names = self.symbols
        if not names:
            return [{}]
        tries: list[Sizes] = [{n: table[n] for n in names} for table in (TYPICAL, LARGER)]
        tries.append(dict.fromkeys(names, 1))
        if self.empty:
            tries.append({**tries[0], names[0]: 0})
        return tries


def tensor_type(text: str) -> TensorType:
    """The tensor type that a text means."""
    found = parse_type(text)
    assert isinstance(found, TensorType)
    return found


def _attr_symbols(value: Any) -> set[str]:
    if isinstance(value, tuple):
        return set().union(*map(_attr_symbols, value))
    return set(D.symbols(value)) if isinstance(value, D.Expr) else set()


def graph_of(case: Case) -> Graph:
    """The graph that holds the case's node alone and returns its results."""
    graph = Graph(case.op.strip("_"))
    graph.symbols = {s: Bounds(0) for s in case.symbols}
    operands = [None if t is None else graph.add_input("x", tensor_type(t)) for t in case.operands]
    with graph.edit("case") as e:
        node = e.add(case.op, operands, case.attrs)
    if "symbol" in node.attrs:
        graph.symbols[node.attrs["symbol"]] = Bounds(0)
    graph.set_outputs(node.results)
    return graph


def inputs_of(case: Case, sizes: Sizes, variant: str = "plain") -> list[torch.Tensor]:
    """Tensors for the present operands. `variant`: `plain` random data, `special` odd floats where no fill is given, or
    `strided` (plain data in memory that is not contiguous)."""
    rng = np.random.default_rng(zlib.crc32(f"{case.id}{sorted(sizes.items())}".encode()))
    made: list[torch.Tensor] = []
    for i, text in enumerate(case.operands):
        if text is None:
            continue
        type = tensor_type(text)
        shape = tuple(D.evaluate(d, sizes) for d in type.shape)
        if i in case.fills:
            data = case.fills[i](rng, shape, sizes)
        elif variant == "special" and type.dtype.is_float:
            data = odd_floats(shape, i, narrow=type.dtype.name in ("f16", "bf16"))
        else:
            data = random_data(rng, shape, type)
        tensor = torch.from_numpy(np.ascontiguousarray(data).reshape(shape)).to(to_torch(type.dtype))
        made.append(strided(tensor) if variant == "strided" else tensor)
    return made


def random_data(rng: np.random.Generator, shape: Sequence[int], type: TensorType) -> np.ndarray:
    """Plain data: normal floats and complex numbers, small integers of both signs, random truths."""
    if type.dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if type.dtype.is_int:
        return rng.integers(0 if type.dtype.kind == "uint" else -9, 10, shape)
    if type.dtype.is_complex:
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    return rng.standard_normal(shape) * 2


_ODD = (
    0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 0.5, -0.5, 2.5, -3.0, 1e-40, 1e-8, 88.0, -104.0, 1e30, -1e30, 1e4,
    3.0,
)


def odd_floats(shape: Sequence[int], shift: int, *, narrow: bool = False) -> np.ndarray:
    """NaN, infinities, zeros of both signs, subnormal, huge and ordinary numbers; operands of different `shift` meet
    in different pairs."""
    count = int(np.prod(shape))
    steps = np.arange(count) * (1, 2, 3, 5)[shift % 4] + np.arange(count) // len(_ODD) * (shift % 3) + shift
    data = np.asarray(_ODD)[steps % len(_ODD)].reshape(shape)
    return np.where(np.abs(data) == 1e30, np.sign(data) * 1e4, data) if narrow else data


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements in memory with gaps and with the axes in reverse order."""
    if not tensor.ndim:
        return tensor.new_zeros(3)[1].copy_(tensor)
    wide = tensor.new_zeros([2 * d + 1 for d in reversed(tensor.shape)])
    view = wide[tuple(slice(1, None, 2) for _ in tensor.shape)].permute(*reversed(range(tensor.ndim)))
    view.copy_(tensor)
    return view


# data for operands that need it

def index_below(size: str | int, low: int = 0) -> Fill:
    """Indices in [low, size), where size is a number or a symbol."""
    def fill(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
        high = sizes[size] if isinstance(size, str) else size
        return rng.integers(low, max(high, low + 1), shape)
    return fill


def between(low: float, high: float) -> Fill:
    """Uniform floats."""
    return lambda rng, shape, sizes: rng.uniform(low, high, shape)


def whole(low: int, high: int) -> Fill:
    """Whole numbers in [low, high)."""
    return lambda rng, shape, sizes: rng.integers(low, high, shape)


def distinct() -> Fill:
    """Different numbers in random order."""
    return lambda rng, shape, sizes: (rng.permutation(int(np.prod(shape))).reshape(shape) - 7) * 0.5


def ascending() -> Fill:
    """Numbers that do not fall along the last axis, with repetitions."""
    return lambda rng, shape, sizes: np.sort(rng.integers(-5, 6, shape), axis=-1)


# comparing

_RTOL = {
    Tolerance.ROUNDING: {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2},
    Tolerance.APPROXIMATE: {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3.2e-2},
}


def scale_of(case: Case, inputs: Sequence[torch.Tensor], expected: torch.Tensor) -> float:
    """The magnitude that rounding errors of a case's result are measured by: the largest ordinary number among operands
    and result, at most 1 for element-wise operators; for others it grows with the root of how many operand elements
    there are to one of the result."""
    largest = max((_largest(x) for x in (*inputs, expected)), default=0.0)
    if isinstance(op_named(case.op), ElementWise):
        return min(1.0, largest)
    count = sum(x.numel() for x in inputs) / max(1, expected.numel())
    return float(min(largest, 16.0) * np.sqrt(max(1.0, count)))


def _largest(x: torch.Tensor) -> float:
    """The largest magnitude of a float tensor's ordinary numbers; 0 where there are none."""
    if not x.is_floating_point() and not x.is_complex():
        return 0.0
    magnitude = x.abs().double()
    ordinary = magnitude[magnitude < 1e6]
    return float(ordinary.max()) if ordinary.numel() else 0.0


def assert_close(
    found: Any, expected: torch.Tensor, tolerance: Tolerance, what: str = "result", *, scale: float | None = None
) -> None:
    """Shapes and element types are the same; elements agree as the tolerance class says, NaN with NaN.

    Rounding and approximate results may also differ by the relative tolerance of `scale` (sums cancel); without it, of
    the largest ordinary number expected, at most 1. Integers and truths are exact in every class.
    """
    found = torch.as_tensor(found)
    shape, wanted = tuple(found.shape), tuple(expected.shape)
    assert shape == wanted, f"{what}: shape {shape}, not {wanted}"
    assert found.dtype == expected.dtype, f"{what}: {found.dtype}, not {expected.dtype}"
    if expected.is_complex():
        found, expected = torch.view_as_real(found.resolve_conj()), torch.view_as_real(expected.resolve_conj())
    if tolerance is Tolerance.EXACT or not expected.is_floating_point():
        rtol, atol = 0.0, 0.0
    else:
        rtol = _RTOL[tolerance][expected.dtype]
        atol = rtol * (min(1.0, _largest(expected)) if scale is None else scale) + 1e-37
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True,
        msg=lambda text: f"{what}: {text}\nfound {found.flatten()[:12]}\nexpected {expected.flatten()[:12]}",
    )


def tolerance_of(case: Case) -> Tolerance:
    """The tolerance class of the case's operator; complex arithmetic is at best as exact as its roundings."""
    tolerance = op_named(case.op).tolerance
    computes = any(t is not None and t.startswith("complex") for t in case.operands) and case.op == "abs"
    return Tolerance.ROUNDING if computes and tolerance is Tolerance.EXACT else tolerance


def with_absent(case: Case, tensors: Sequence[Any]) -> list[Any]:
    """The tensors with None where the case lacks an operand."""
    rest = iter(tensors)
    return [None if t is None else next(rest) for t in case.operands]
