"""Operators of torch where its meaning is easily missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcomp
from benchmarks.zoo_check import Interpreted, compare
from mcomp.capture import capture
from tests.cpu.backend_harness import needs_compiler

X = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
SHORT = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
S = {"x": {1: "S"}, "y": {1: "T"}}


class Does(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.function(x, y)


@pytest.mark.parametrize("function", [
    lambda x, y: torch.cat([x, y], 1)[:, -y.shape[1] :],
    lambda x, y: torch.cat([x, y], 1)[:, : -y.shape[1]],
    lambda x, y: x[:, : -(x.shape[1] // 4)],
    lambda x, y: x[:, -(x.shape[1] // 4) :],
    lambda x, y: x[:, -y.shape[1]],
    lambda x, y: x[:, -(y.shape[1] // 4)],
    lambda x, y: x[:, x.shape[1] - 1],
    lambda x, y: x[:, : x.shape[1] - 1],
], ids=["last", "but last", "but a quarter", "a quarter", "from the end", "from a quarter", "last one", "but one"])
@pytest.mark.parametrize("sizes", [(9, 3), (12, 5), (7, 7)])
def test_bounds_that_count_from_the_end(function: Callable[..., Any], sizes: tuple[int, int]) -> None:
    model = Does(function).eval()
    found = capture(model, (X, SHORT), dynamic=S)
    assert found.program is not None
    x, y = (torch.randn(2, size, 4) for size in sizes)
    assert compare(model, Interpreted(found.program), (x, y), {}) <= 1e-6


@pytest.mark.parametrize("function", [
    lambda x, y: torch.fft.rfft(x).norm(dim=-1),
    lambda x, y: torch.linalg.vector_norm(torch.fft.rfft(x), dim=1),
    lambda x, y: F.cosine_similarity(x, y[0, :1], dim=1),
    lambda x, y: F.cosine_similarity(x, y[:, :1], dim=1),
    lambda x, y: F.cosine_similarity(x, x[0], dim=-1),
], ids=["complex norm", "complex vector norm", "lower rank", "size 1", "last axis"])
def test_norms_and_angles(function: Callable[..., Any]) -> None:
    model = Does(function).eval()
    found = capture(model, (X, SHORT))
    assert found.program is not None and not found.program.opaque
    assert compare(model, Interpreted(found.program), (X, SHORT), {}) <= 1e-5


@pytest.mark.parametrize("dim", [0, 1, -2, None])
def test_weight_norm_of_an_axis_or_of_everything(dim: int | None) -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3), dim=dim).eval()
    found = capture(model, (X,))
    assert found.program is not None
    assert compare(model, Interpreted(found.program), (X,), {}) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_are_rounded_before_they_are_compared(dtype: torch.dtype) -> None:
    x = torch.tensor([0.1, 0.3, 0.7, 1.0, 2.0]).to(dtype)
    model = Does(lambda x, y: [x > 0.3, x >= 0.7, x == 0.1, x != 0.3, x < 1, x >= 2.0]).eval()
    found = capture(model, (x, x))
    assert found.program is not None
    for ours, theirs in zip(Interpreted(found.program)(x, x), model(x, x)):
        assert torch.equal(ours, theirs)


def test_a_size_that_only_values_tell_and_nothing_but_the_size_of() -> None:
    model = Does(lambda x, y: x.sum() / (x > 0).nonzero().shape[0]).eval()
    fast = mcomp.optimize(model, (X, SHORT), target="reference", progress=False)
    torch.testing.assert_close(fast(X, SHORT), model(X, SHORT))
    torch.testing.assert_close(fast(X - 1.0, SHORT), model(X - 1.0, SHORT))


class Picks(nn.Module):
    """A row that only values tell."""

    def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        n = count.sum().item()
        torch._check(n >= 0)
        torch._check(n < x.shape[0])
        return x[n] * 2.0


@pytest.mark.parametrize("target", ["reference", pytest.param("cpu", marks=needs_compiler)])
def test_an_index_that_only_values_tell_is_checked(target: str) -> None:
    x, model = torch.randn(5, 4), Picks().eval()
    fast = mcomp.optimize(model, (x, torch.tensor([1, 2])), dynamic=False, target=target, progress=False)
    torch.testing.assert_close(fast(x, torch.tensor([1, 0])), x[1] * 2.0)
    torch.testing.assert_close(fast(x, torch.tensor([0, 0])), x[0] * 2.0)
    for bad in (5, 10**6, -1) if target == "cpu" else (5, 10**6):  # torch itself counts -1 from the end
        with pytest.raises(mcomp.errors.McompError):
            fast(x, torch.tensor([bad, 0]))


def test_a_number_that_only_values_tell_may_be_negative() -> None:
    model = Does(lambda x, y: x * (y > 0).sum().sub(50).item()).eval()
    fast = mcomp.optimize(model, (X, SHORT), dynamic=False, target="reference", progress=False)
    torch.testing.assert_close(fast(X, SHORT), model(X, SHORT))


@pytest.mark.parametrize("function", [
    lambda x, y: x.to(torch.complex128).abs().float(), lambda x, y: (x.double() * 1j).abs().float(),
], ids=["cast", "product"])
def test_element_types_that_the_ir_lacks_leave_the_model_to_torch(function: Callable[..., Any]) -> None:
    model = Does(function).eval()
    fast = mcomp.optimize(model, (X, SHORT), target="reference", progress=False)
    torch.testing.assert_close(fast(X, SHORT), model(X, SHORT))


def test_bounds_of_the_user_are_no_wider_than_those_of_the_program() -> None:
    model = Does(lambda x, y: x.topk(5, dim=1).values).eval()
    fast = mcomp.optimize(
        model, (X, SHORT), dynamic={"x": {1: ("S", 1, 512)}}, target="reference", progress=False,
    )
    torch.testing.assert_close(fast(X, SHORT), model(X, SHORT))
    with pytest.raises(mcomp.errors.CallError):
        fast(X[:, :3], SHORT)
