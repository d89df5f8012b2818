"""Operators of torch without a class of ours: which of them draw random numbers."""

from __future__ import annotations

import sys

import pytest
import torch

from mcomp.capture import capture
from mcomp.manager import PassManager
from mcomp.manager.defaults import CLEANUP
from mcomp.ops.base import Effect, op_named
from mcomp.ops.evaluate import run_graph

DRAWING = (
    "aten.binomial.default", "aten._standard_gamma.default", "aten._sample_dirichlet.default", "aten.cauchy.default",
    "aten.geometric.default", "aten.rrelu_with_noise_functional.default", "aten.normal.Tensor_Tensor",
    "aten.bernoulli.p",
)


@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_is_random_with_and_without_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert op_named(name).effect is Effect.RANDOM
    monkeypatch.setitem(sys.modules, "torch", None)
    assert op_named(name).effect is Effect.RANDOM


def test_torch_tells_of_operators_whose_names_do_not() -> None:
    assert op_named("aten.scaled_dot_product_attention.default").effect is Effect.RANDOM
    for name in ("aten.logaddexp2.default", "nowhere.unknown.default", "aten.from_file.default"):
        assert op_named(name).effect is Effect.PURE


class Twice(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "binomial":
            return torch.binomial(torch.full_like(x, 100.0), x)
        if self.kind == "gamma":
            return torch._standard_gamma(x)
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.draw(x), self.draw(x)


@pytest.mark.parametrize("kind", ["binomial", "gamma", "dropout"])
def test_two_draws_stay_two_draws(kind: str) -> None:
    model, x = Twice(kind).eval(), torch.rand(2, 8, 8)
    program = capture(model, (x,)).program
    assert program is not None
    PassManager(CLEANUP).run(program.graph)
    torch.manual_seed(0)
    wanted = model(x)
    torch.manual_seed(0)
    found = run_graph(program.graph, [x])
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(tuple(found), wanted, rtol=0, atol=0)
