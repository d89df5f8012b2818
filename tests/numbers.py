"""Running two graphs on the same inputs and comparing what comes out, by effect class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mcomp.ir import Graph, TensorType, Value
from mcomp.ir import dims as D
from mcomp.ir.dtypes import to_torch
from mcomp.ops.encoded import decoded, to_torch_tensor
from mcomp.ops.evaluate import run_graph

_TOLERANCE = {"f64": 1e-10, "f32": 2e-5, "f16": 5e-3, "bf16": 4e-2, "complex64": 2e-5}
_SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 0.0)


def random_inputs(graph: Graph, seed: int = 0, *, special: bool = False, size: int = 3) -> list[Any]:
    """Random inputs for a graph; every symbol gets `size` or its lower bound. `special`: some elements are NaN,
    infinities and signed zeros. State starts from its initial weight."""
    rng = np.random.default_rng(seed)
    symbols = {name: max(size, b.low) if b.high is None else min(max(size, b.low), b.high)
               for name, b in graph.symbols.items()}
    return [_random(graph, v, spec.initial, symbols, rng, special) for v, spec in zip(graph.inputs, graph.input_specs)]


def _random(
    graph: Graph, value: Value, initial: str, symbols: dict[str, int], rng: np.random.Generator, special: bool
) -> Any:
    if initial:
        return to_torch_tensor(graph.store.get(initial))
    if not isinstance(value.type, TensorType):
        return 2
    shape = tuple(D.evaluate(d, symbols) for d in value.type.shape)
    dtype = value.type.dtype
    if dtype.kind == "bool":
        return torch.from_numpy(rng.integers(0, 2, shape).astype(bool))
    if dtype.is_int:
        return torch.from_numpy(rng.integers(0, 4, shape)).to(to_torch(dtype))
    data = rng.standard_normal(shape)
    if special and data.size:
        places = rng.integers(0, data.size, max(1, data.size // 6))
        data.reshape(-1)[places] = rng.choice(_SPECIAL, places.size)
    return torch.from_numpy(np.asarray(data)).to(to_torch(dtype))


def check_same_numbers(before: Graph, after: Graph, effect: str, *, special: bool = True) -> None:
    """Fail unless both graphs give the same results: bit for bit when exact, within rounding otherwise; NaN and
    infinities in the same places either way (tried with `special`). Graphs with random nodes are only run."""
    for seed in range(4 if special else 2):
        inputs = random_inputs(before, seed, special=seed >= 2)
        wanted, found = run_graph(before, inputs), run_graph(after, inputs)
        if any(n.op.effect.value == "random" for n in before.walk()):
            continue
        assert len(wanted) == len(found)
        for value, a, b in zip(before.outputs, wanted, found):
            compare(decoded(a), decoded(b), effect, f"%{value.name}, seed {seed}")


def compare(wanted: Any, found: Any, effect: str, what: str) -> None:
    """Fail unless two results are the same within an effect class."""
    if not isinstance(wanted, torch.Tensor):
        assert wanted == found, what
        return
    assert wanted.shape == found.shape and wanted.dtype == found.dtype, what
    if effect == "exact" or not (wanted.is_floating_point() or wanted.is_complex()):
        assert same_bits(wanted, found), f"{what}: {wanted} became {found}"
        return
    a, b = wanted.to(torch.complex128), found.to(torch.complex128)
    assert torch.equal(torch.isnan(a), torch.isnan(b)), f"{what}: NaN moved: {wanted} became {found}"
    assert torch.equal(torch.isinf(a), torch.isinf(b)), f"{what}: infinities moved: {wanted} became {found}"
    fine = torch.isfinite(a)
    if not fine.any():
        return
    scale = max(1.0, float(a[fine].abs().max()))
    from mcomp.ir.dtypes import from_torch

    error = float((a[fine] - b[fine]).abs().max()) / scale
    assert error <= _TOLERANCE[from_torch(wanted.dtype).name], f"{what}: relative error {error}"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits; any NaN equals any NaN."""
    if a.is_complex():
        return same_bits(torch.view_as_real(a), torch.view_as_real(b))
    if not a.is_floating_point():
        return torch.equal(a, b)
    nan = torch.isnan(a)
    if not torch.equal(nan, torch.isnan(b)):
        return False
    zero = torch.zeros((), dtype=a.dtype)
    x, y = torch.where(nan, zero, a), torch.where(nan, zero, b)
    return torch.equal(x, y) and torch.equal(torch.signbit(x), torch.signbit(y))
