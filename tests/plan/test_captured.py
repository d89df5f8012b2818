"""Outputs that versions are compared with: few are held at a time, and the numbers are those of all at once."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mcomp.plan.quality import RelativeError, relative_error
from mcomp.plan.work import Workshop
from mcomp.runtime.calibration import Calibration
from tests.api.models import batches, wide
from tests.plan.shops import shop_of

BATCHES = batches(6)
NBYTES = 8 * 8 * 4
"""Of the outputs of a batch."""


def shop() -> Workshop:
    found = shop_of(wide(), BATCHES[0], calibration=BATCHES, max_error=0.1)
    found.lossless()
    return found


def counted(patch: pytest.MonkeyPatch) -> list[Any]:
    """The batches that graphs run on."""
    ran: list[Any] = []
    inner = Calibration.outputs_of

    def outputs_of(self: Calibration, graph: Any, batch: Any) -> list[Any]:
        ran.append(batch[0])
        return inner(self, graph, batch)

    patch.setattr(Calibration, "outputs_of", outputs_of)
    return ran


def test_outputs_are_kept_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    (work,) = shop().works
    ran, work.room = counted(monkeypatch), 2 * NBYTES + 1
    first = [(batch[0], outputs[0]) for batch, outputs in work.expected()]
    assert len(ran) == 6 and len(work.outputs) == 2 and work.room == 1
    ran.clear()
    again = [(batch[0], outputs[0]) for batch, outputs in work.expected(4)]
    assert [x is BATCHES[i][0] or torch.equal(x, BATCHES[i][0]) for i, x in enumerate(ran, 2)] == [True, True]
    for (x, y), (x0, y0) in zip(again, first):
        assert torch.equal(x, x0) and torch.equal(y, y0)


def test_parts_share_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    made = shop()
    monkeypatch.setattr("mcomp.plan.work.KEPT_BYTES", 1000)
    again = Workshop(made.model, made.captured, made.works * 2, made.example, made.settings, made.progress)
    assert [work.room for work in again.works] == [500, 500]


def test_the_error_of_a_version_is_the_same_whatever_is_kept() -> None:
    found = shop()
    version, (work,) = found.make("int8", "quantize{bits=8}"), found.works
    program = version.built.programs()[""]
    ours = [program.session().run([t.clone() for t in batch], numpy=False) for batch in work.calibration.batches]
    together = relative_error(ours, work.calibration.outputs(work.program.graph))
    errors = []
    for room in (0, 3 * NBYTES, 1 << 20):
        work.outputs.clear()
        work.room, version.error = room, None
        errors.append(found.judge_error(version))
    assert errors == [together] * 3 and together > 0.0


def test_outputs_of_a_version_are_not_held() -> None:
    found = shop()
    version = found.make("int8", "quantize{bits=8}")
    inner = version.built.programs()[""]
    given: list[weakref.ref[torch.Tensor]] = []

    def run(inputs: list[torch.Tensor], numpy: bool) -> list[torch.Tensor]:
        assert sum(ref() is not None for ref in given) <= 1
        outputs = inner.session().run(inputs, numpy=numpy)
        given.extend(weakref.ref(y) for y in outputs)
        return outputs

    program = SimpleNamespace(session=lambda: SimpleNamespace(run=run))
    version.built = SimpleNamespace(programs=lambda: {"": program})  # type: ignore[assignment]
    assert found.judge_error(version) > 0.0
    assert len(given) == 6


@pytest.mark.parametrize("kind", ["floats", "labels", "both"])
def test_an_error_added_up_is_that_of_all_at_once(kind: str) -> None:
    rng = np.random.default_rng(0)

    def outputs() -> list[np.ndarray]:
        values, labels = rng.normal(size=(3, 5)), rng.integers(0, 4, 7)
        return {"floats": [values], "labels": [labels], "both": [values, labels]}[kind]

    ours, theirs = ([outputs() for _ in range(5)] for _ in range(2))
    found = RelativeError()
    for batch, wanted in zip(ours, theirs):
        found.add(batch, wanted)
    assert found.value == relative_error(ours, theirs) > 0.0
    found.add([np.array([np.inf])], [np.ones(1)])
    found.add([np.ones(1)], [np.ones(1)])
    assert found.value == (float("inf"))


@pytest.mark.parametrize("as_numpy", [False, True])
def test_complex_outputs_are_compared_by_both_parts(as_numpy: bool) -> None:
    """A turn by 90 degrees changes no magnitude."""
    given = torch.tensor([3.0 + 4.0j, 1.0 - 2.0j, 0.5j])
    turned = (given * 1j).conj()
    ours, theirs = (x.resolve_conj().numpy() if as_numpy else x for x in (turned, given))
    expected = float(torch.linalg.vector_norm(turned - given) / torch.linalg.vector_norm(given))
    assert relative_error([[ours]], [[theirs]]) == pytest.approx(expected) and expected > 0.5
    assert relative_error([[theirs]], [[theirs]]) == 0.0
    broken = given.clone()
    broken[0] = complex(float("nan"), 0.0)
    assert relative_error([[broken]], [[given]]) == float("inf")
