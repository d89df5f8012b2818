"""Races: every version runs its own programs, in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from mcomp.plan import contest
from tests.api.test_budget import Halve
from tests.api.test_odd_models import Turns
from tests.plan.shops import shop_of

X = torch.ones(2, 32)


def test_versions_of_a_model_in_parts_each_run_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the eager module that the parts are put into."""
    torch.manual_seed(0)
    model = Turns().eval()
    with torch.no_grad():
        expected = model(X)
    shop = shop_of(model, (X,))
    versions = [shop.lossless(), shop.make("half", [Halve(0.5)]), shop.make("quarter", [Halve(0.25)])]
    assert shop.captured.program is None

    def turns(runners: Sequence[Callable[..., Any]], *, prepare: Callable[[], Any], **options: Any) -> list[Any]:
        return [[run(prepare()) for run in runners] for _ in range(2)]

    monkeypatch.setattr(contest, "interleave", turns)
    for outputs in contest.race(shop, versions, original=True, budget=1.0):  # type: ignore[attr-defined]
        for found, factor in zip(outputs, (1.0, 1.0, 0.5, 0.25), strict=True):
            torch.testing.assert_close(found, factor * expected)
    shop.install(versions[1])
    assert shop.captured.fallback is not None
    torch.testing.assert_close(shop.captured.fallback(X), 0.5 * expected)
