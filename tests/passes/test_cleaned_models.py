"""Models that clean-ups could get wrong: captured, cleaned, interpreted, and compared with torch's own results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.zoo_check import Interpreted, compare
from mcomp.capture import capture
from mcomp.capture.program import CapturedProgram
from mcomp.ir.verifier import verify
from mcomp.manager import Context, PassManager
from mcomp.manager.defaults import CLEANUP


def cleaned(
    model: nn.Module, *args: Any, pipeline: str = CLEANUP, context: Context | None = None, dynamic: Any = None,
) -> CapturedProgram:
    """A captured model after clean-ups."""
    found = capture(model.eval(), args, dynamic=dynamic).program
    assert found is not None
    PassManager(pipeline).run(found.graph, context)
    verify(found.graph)
    return found


def operators(program: CapturedProgram) -> list[str]:
    """The operators that are left, constants aside."""
    return [n.op.name for n in program.graph.nodes if n.op.name != "const"]


def agrees(model: nn.Module, program: CapturedProgram, *args: Any, tolerance: float = 1e-5) -> None:
    """Fail unless the program gives what torch gives."""
    assert compare(model, Interpreted(program), args, {}) <= tolerance


class Scaled(nn.Module):
    """A layer of a parameter of one row, as many times as there are rows, and scaled by a number."""

    def __init__(self, factor: float, quotient: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.p = nn.Parameter(torch.randn(1, 4))
        self.factor, self.quotient = factor, quotient

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbers = torch.full_like(x, self.factor)
        return self.fc(self.p / numbers if self.quotient else self.p * numbers)


@pytest.mark.parametrize("quotient", [False, True])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_number_that_stretches_what_it_scales_is_no_weight_s(factor: float, quotient: bool) -> None:
    torch.manual_seed(0)
    model = Scaled(factor, quotient)
    program = cleaned(model, torch.randn(2, 4))
    for rows in (2, 1, 5):
        agrees(model, program, torch.randn(rows, 4))


def gelu_of_quotients(x: torch.Tensor) -> torch.Tensor:
    return torch.div(x, 2.0, rounding_mode="floor") * (1 + torch.erf(x * 2**-0.5))


def gelu_of_a_halved_gate(x: torch.Tensor) -> torch.Tensor:
    return x * torch.div(1 + torch.erf(x * 2**-0.5), 2.0, rounding_mode="trunc")


def gelu_of_a_halved_product(x: torch.Tensor) -> torch.Tensor:
    return torch.div(x * (1 + torch.erf(x * 2**-0.5)), 2.0, rounding_mode="floor")


def gelu_of_a_scaled_argument(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(torch.div(x, 2**0.5, rounding_mode="trunc")))


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.div(torch.ones(()), 1 + torch.exp(-x), rounding_mode="floor")


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize("function", [
    gelu_of_quotients, gelu_of_a_halved_gate, gelu_of_a_halved_product, gelu_of_a_scaled_argument, sigmoid,
])
def test_quotients_rounded_to_whole_numbers_make_no_activation(function: Any) -> None:
    x = torch.linspace(-8, 8, 64).reshape(4, 16)
    program = cleaned(Function(function), x)
    assert "div" in operators(program)
    agrees(Function(function), program, x)


def test_rounded_quotients_of_exponentials_are_no_softmax() -> None:
    def shares(x: torch.Tensor) -> torch.Tensor:
        return torch.div(torch.exp(x), torch.exp(x).sum(-1, keepdim=True), rounding_mode="floor")

    x, context = torch.tensor([[200.0, -3.0], [0.0, 1.0]]), Context()
    agrees(Function(shares), cleaned(Function(shares), x, context=context), x)
    assert not [r for r in context.remarks if "softmax" in r.rule]


def by_one_index(x: torch.Tensor) -> torch.Tensor:
    return x[torch.arange(1).expand(4)]


def by_a_sum(x: torch.Tensor) -> torch.Tensor:
    return x[torch.arange(1) + torch.zeros(4, dtype=torch.int64)]


@pytest.mark.parametrize("function", [by_one_index, by_a_sum])
def test_one_index_many_times_is_not_every_index(function: Any) -> None:
    x = torch.randn(4)
    agrees(Function(function), cleaned(Function(function), x, dynamic=False), x)


class Narrow(nn.Module):
    """Constants that went through a type of 8 bits: ones, and a number of the model's."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("scale", torch.tensor(0.3).to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(4).to(self.dtype)
        return (x + ones.to(torch.float32)) * self.scale.to(torch.float32) + torch.full((), 0.1).to(self.dtype).float()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_in_floats_of_8_bits_fold(dtype: torch.dtype) -> None:
    model, x = Narrow(dtype), torch.randn(3, 4)
    program = cleaned(model, x)
    assert "cast" not in operators(program)
    agrees(model, program, x)


@pytest.mark.parametrize(("threshold", "found"), [(20.0, True), (30.0, True), (1.0, False), (-40.0, False)])
def test_softplus_with_a_low_threshold_makes_no_mish(threshold: float, found: bool) -> None:
    def gated(x: torch.Tensor) -> torch.Tensor:
        return x * torch.tanh(nn.functional.softplus(x, 1.0, threshold))

    x = torch.linspace(-30, 30, 64).reshape(4, 16)
    program = cleaned(Function(gated), x)
    assert ("mish" in operators(program)) is found
    agrees(Function(gated), program, x)


@pytest.mark.parametrize(("first", "second", "size"), [(1025 / 2**20, 1025 / 2**20, 1e4), (1.25 / 2**6, 50.0, 5e-4)])
def test_products_of_numbers_that_lose_digits_in_f16_stay_apart(first: float, second: float, size: float) -> None:
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * first * second

    x = torch.linspace(0.1, 1, 64).mul(size).half().reshape(4, 16)
    program = cleaned(Function(scaled), x)
    assert operators(program).count("mul") == 2
    agrees(Function(scaled), program, x)


class Shrunk(nn.Module):
    """A layer whose result, or what it reads, is scaled."""

    def __init__(self, dtype: torch.dtype, weight: float, scale: float, before: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6, bias=False)
        nn.init.uniform_(self.fc.weight, 0.1 * weight, weight)
        self.fc.to(dtype)
        self.scale, self.before = scale, before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x * self.scale) if self.before else self.fc(x) * self.scale


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("dtype", "weight", "scale", "size"), [
    (torch.float16, 0.1, 1.25 / 2**17, 1e4), (torch.float32, 1e-5, 2e-38, 1e8), (torch.float32, 1e-10, 2e-38, 1e20),
])
def test_scales_that_leave_weights_without_digits_are_not_folded(
    dtype: torch.dtype, weight: float, scale: float, size: float, before: bool
) -> None:
    torch.manual_seed(0)
    model, context = Shrunk(dtype, weight, scale, before), Context()
    x = (torch.rand(4, 8) * size).to(dtype)
    agrees(model, cleaned(model, x, context=context), x, tolerance=2e-3 if dtype == torch.float16 else 1e-5)
    assert any("too small" in r.reason for r in context.remarks)
