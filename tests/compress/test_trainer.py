"""The trainer: reproducible, stops early, within its time, goes on from a checkpoint, survives what is not finite."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mcomp.errors import PassError
from mcomp.ir import TensorType, dtypes, sym
from mcomp.passes.compress.training import trainer
from mcomp.passes.compress.training.data import Minibatch, Samples, row_columns
from mcomp.passes.compress.training.groups import parameter_groups
from mcomp.passes.compress.training.objective import Objective, relative_square
from mcomp.passes.compress.training.trainer import Recipe, train


class Fit:
    """Fits w to y = x @ w; what happens at a step can be changed."""

    def __init__(self, samples: Samples, fail_at: int = -1, nan_from: int = -1) -> None:
        self.samples = samples
        self.weight = torch.zeros(4, 1, requires_grad=True)
        self.fail_at, self.nan_from = fail_at, nan_from
        self.calls = 0

    kind = "plain"

    def tensors(self) -> Mapping[str, Tensor]:
        return {"w:values": self.weight}

    def buffers(self) -> Mapping[str, Tensor]:
        return {}

    def loss(self, batch: Minibatch, step: int) -> Tensor:
        self.calls += 1
        if step == self.fail_at:
            raise KeyboardInterrupt
        x, y = self.samples.columns(batch)
        found = (x @ self.weight - y).square().mean()
        return found * float("nan") if 0 <= self.nan_from <= step else found

    def held(self) -> float:
        with torch.no_grad():
            found = [self.samples.columns(b) for b in self.samples.held()]
            return sum(float((x @ self.weight - y).square().mean()) for x, y in found) / len(found)


def samples(count: int = 64, held: float = 0.25, size: int = 8) -> Samples:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    return Samples([[x[: count // 2], y[: count // 2]], [x[count // 2 :], y[count // 2 :]]], [True, True], size=size,
                   held=held, seed=1)


RECIPE = Recipe(rate=0.05, steps=60, checks=6)


def test_training_lowers_the_held_out_loss_and_says_how() -> None:
    task = Fit(samples())
    outcome = train(task, task.samples, RECIPE)
    assert outcome.improved and outcome.best < 0.5 * outcome.first
    assert outcome.steps == outcome.planned == 60
    assert [step for step, _ in outcome.history] == [0, 10, 20, 30, 40, 50, 60]
    assert task.held() == pytest.approx(outcome.best)


@pytest.mark.parametrize("options", [
    {}, {"optimizer": "sgd", "rate": 0.02}, {"schedule": "linear"}, {"schedule": "constant"}, {"warmup": 0.0},
    {"rate": None},
])
def test_every_recipe_trains_and_reproduces(options: dict[str, object]) -> None:
    recipe = Recipe(**{**vars(RECIPE), **options})  # type: ignore[arg-type]
    first, second = Fit(samples()), Fit(samples())
    outcome = train(first, first.samples, recipe)
    train(second, second.samples, recipe)
    assert outcome.improved
    assert torch.equal(first.weight, second.weight)


def test_an_interruption_keeps_the_best_and_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole = Fit(samples())
    expected = train(whole, whole.samples, RECIPE)
    broken = Fit(samples(), fail_at=33)
    outcome = train(broken, broken.samples, RECIPE, checkpoint=tmp_path / "a" / "state.pt", identity="fit")
    assert outcome.interrupted
    assert broken.held() == pytest.approx(outcome.best) and outcome.best < outcome.first
    resumed = Fit(samples())
    again = train(resumed, resumed.samples, RECIPE, checkpoint=tmp_path / "a" / "state.pt", identity="fit")
    assert again.resumed_at == 30 and resumed.calls == 30
    assert torch.equal(resumed.weight, whole.weight)
    assert again.history == expected.history
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["state.pt"]


def test_a_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    task = Fit(samples())
    train(task, task.samples, RECIPE, checkpoint=tmp_path / "state.pt", identity="one")
    other = Fit(samples())
    assert train(other, other.samples, RECIPE, checkpoint=tmp_path / "state.pt", identity="two").resumed_at == 0


def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"something else")
    task = Fit(samples())
    with pytest.raises(PassError, match="no checkpoint"):
        train(task, task.samples, RECIPE, checkpoint=tmp_path / "state.pt", identity="fit")


def test_losses_that_are_not_finite_go_back_and_end_the_training() -> None:
    task = Fit(samples(), nan_from=25)
    outcome = train(task, task.samples, RECIPE)
    assert outcome.backoffs == 6 and "NaN" in outcome.stopped
    assert bool(torch.isfinite(task.weight).all()) and task.held() == pytest.approx(outcome.best)
    assert outcome.improved


def test_no_improvement_ends_early() -> None:
    task = Fit(samples())
    with torch.no_grad():
        task.weight.copy_(torch.tensor([[1.0], [-2.0], [0.5], [3.0]]))
    best = task.weight.detach().clone()
    outcome = train(task, task.samples, Recipe(rate=0.1, steps=60, checks=20, patience=3))
    assert outcome.stopped == "the held-out loss no longer fell" and outcome.steps == 9
    assert torch.equal(task.weight, best) and not outcome.improved


@pytest.mark.parametrize("long", [{"steps": 10_000_000}, {"epochs": math.inf}])
def test_a_time_limit_makes_the_schedule_shorter(long: dict[str, Any]) -> None:
    task = Fit(samples())
    outcome = train(task, task.samples, Recipe(rate=0.01, seconds=0.5, **long))
    assert outcome.planned < 10_000_000 and outcome.seconds < 5.0
    assert outcome.improved


def test_rates_are_tried_where_losses_are_negative() -> None:
    """As those of a student that gives what its teacher gives are, by rounding."""

    class Shifted(Fit):
        def held(self) -> float:
            return super().held() - 100.0

    task = Shifted(samples())
    outcome = train(task, task.samples, Recipe(steps=40))
    assert outcome.probed and outcome.improved


def test_nothing_to_train_is_said() -> None:
    empty = Samples([[torch.zeros(0, 4), torch.zeros(0, 1)]], [True, True], size=8, held=0.1, seed=0)
    assert train(Fit(empty), empty, RECIPE).stopped == "there is no data to train on"


# data

def test_held_out_rows_are_apart_and_every_epoch_has_all_others() -> None:
    found = samples()
    held = {(b.group, r) for b in found.held() for r in b.rows}
    for number in range(2):
        epoch = found.epoch(number)
        rows = [(b.group, r) for b in epoch for r in b.rows]
        assert len(rows) == len(set(rows)) == found.trained_on == 48
        assert not held & set(rows)
        assert len(epoch) == found.steps_per_epoch
    assert found.epoch(0) != found.epoch(1) and found.epoch(0) == samples().epoch(0)


def test_rows_of_different_shapes_are_not_mixed() -> None:
    batches = [[torch.zeros(3, 5)], [torch.zeros(4, 7)], [torch.ones(2, 5)]]
    found = Samples(batches, [True], size=2, held=0.0, seed=0)
    shapes = {tuple(found.columns(b)[0].shape[1:]) for b in found.epoch(0)}
    assert shapes == {(5,), (7,)} and found.total == 9


def test_columns_without_rows_stay_with_their_batches() -> None:
    batches = [[torch.zeros(3, 2), torch.ones(4)], [torch.zeros(3, 2), torch.zeros(4)]]
    found = Samples(batches, [True, False], size=8, held=0.0, seed=0)
    assert sorted(float(found.columns(b)[1].sum()) for b in found.epoch(0)) == [0.0, 4.0]


def test_whole_batches_are_samples_where_rows_cannot_be_told_apart() -> None:
    batches = [[torch.full((i + 1, 2), float(i))] for i in range(8)]
    found = Samples(batches, None, size=16, held=0.25, seed=0)
    assert (found.trained_on, found.held_out) == (6, 2)
    assert sorted(found.columns(b)[0].shape[0] for b in (*found.epoch(0), *found.held())) == list(range(1, 9))


def test_which_inputs_have_rows() -> None:
    batch, other = sym("B"), sym("S")

    def f32(*shape: object) -> TensorType:
        return TensorType(tuple(shape), dtypes.f32)  # type: ignore[arg-type]

    assert row_columns([f32(batch, 3), f32(other, 3)], [f32(batch, 2)]) == [True, False]
    assert row_columns([f32(batch, 3)], [f32(4, 2)]) is None
    assert row_columns([f32(batch, batch)], [f32(batch, 2)]) is None
    assert row_columns([f32(batch, 3)], [f32(batch, batch)]) is None
    assert row_columns([f32(3, 4)], [f32(batch, 2)]) is None


# losses

def test_the_error_is_relative_to_the_spread() -> None:
    theirs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    guess = theirs.mean(0, keepdim=True).expand(2, 2)
    assert float(relative_square(guess, theirs)) == pytest.approx(1.0)
    assert float(relative_square(theirs, theirs)) == 0.0
    third = torch.tensor([[1.0, 2.0], [3.0, 4.0], [float("nan")] * 2])
    assert float(relative_square(torch.cat([guess, guess[:1]]), third)) == pytest.approx(1.0)
    holes = theirs.clone()
    holes[0, 0] = float("-inf")
    assert float(relative_square(theirs, holes)) == 0.0


@pytest.mark.parametrize("kind", ["kl", "mse", "cosine"])
def test_every_loss_is_zero_for_the_same_and_positive_for_others(kind: str) -> None:
    loss = Objective((kind,))  # type: ignore[arg-type]
    theirs = torch.randn(5, 7)
    assert float(loss([theirs], [theirs])) == pytest.approx(0.0, abs=1e-6)
    assert float(loss([theirs + torch.randn(5, 7)], [theirs])) > 0.01


@pytest.mark.parametrize("kind", ["kl", "mse", "cosine"])
def test_what_the_teacher_does_not_say_does_not_count(kind: str) -> None:
    loss = Objective((kind,), anchor=0.0)  # type: ignore[arg-type]
    theirs, ours = torch.randn(4, 6), torch.randn(4, 6).requires_grad_()
    holes = torch.cat([theirs, torch.full((1, 6), float("nan")), torch.full((1, 6), float("inf"))])
    found = loss([torch.cat([ours, torch.ones(2, 6)])], [holes])
    assert float(found.detach()) == pytest.approx(float(loss([ours], [theirs]).detach()), rel=1e-5)
    gradient, = torch.autograd.grad(found, ours)
    assert bool(torch.isfinite(gradient).all()) and bool(gradient.any())
    assert float(loss([torch.ones(2, 6)], [holes[4:]])) == 0.0


def test_classes_that_the_teacher_rules_out_have_no_part_in_the_others() -> None:
    loss = Objective(("kl",), anchor=0.0)
    theirs, ours = torch.randn(4, 6), torch.randn(4, 6)
    out = torch.tensor([False] * 5 + [True])
    found = loss([ours.masked_fill(out, -torch.inf).requires_grad_()], [theirs.masked_fill(out, -torch.inf)])
    assert float(found.detach()) == pytest.approx(float(loss([ours[:, :5]], [theirs[:, :5]])), rel=1e-5)


def test_features_count_beside_the_outputs() -> None:
    y, h = torch.randn(5, 3), torch.randn(5, 4)
    loss = Objective(("mse",), features=0.5)
    assert float(loss([y, h * 0 + h.mean(0, keepdim=True)], [y, h])) == pytest.approx(0.5, rel=1e-4)


class Scaled(Fit):
    """Fits w, `size` times as large as it might be, for inputs that are as much smaller, and a bias."""

    def __init__(self, samples: Samples, size: float) -> None:
        super().__init__(samples)
        self.size = size
        start = torch.tensor([[0.5], [-0.5], [0.5], [0.5]])
        self.weight = (size * start).requires_grad_()
        self.bias = torch.zeros(1, requires_grad=True)

    def tensors(self) -> Mapping[str, Tensor]:
        return {"w:values": self.weight, "b:values": self.bias}

    def loss(self, batch: Minibatch, step: int) -> Tensor:
        x, y = self.samples.columns(batch)
        return (x / self.size @ self.weight + self.bias - y).square().mean()

    def held(self) -> float:
        with torch.no_grad():
            return sum(float(self.loss(b, 0)) for b in self.samples.held())


def test_rates_are_in_proportion_to_what_tensors_hold() -> None:
    recipe = Recipe(rate=0.05, steps=40, checks=4, clip=1e9)
    ends = []
    for size in (1.0, 1000.0):
        task = Scaled(samples(), size)
        assert train(task, task.samples, recipe).improved
        ends.append(task.weight.detach() / size)
    assert torch.allclose(ends[0], ends[1], rtol=1e-3)
    assert (ends[0] - torch.tensor([[0.5], [-0.5], [0.5], [0.5]])).abs().max() < 40 * 0.05 * 0.5 * 1.1


def test_checks_are_rare_where_they_would_take_longer_than_the_steps() -> None:
    task = Fit(samples(640, held=0.5))
    outcome = train(task, task.samples, Recipe(rate=0.05, steps=60, checks=20))
    batches = len(task.samples.held())
    assert batches > 30
    assert len(outcome.history) - 1 <= 60 / (batches / 1.5) + 1


def test_of_small_batches_of_different_lengths_a_share_is_held_out_too() -> None:
    batches = [[torch.zeros(1 + i % 3, 5 + i)] for i in range(60)]
    found = Samples(batches, [True], size=8, held=0.1, seed=0)
    assert (found.total, found.held_out) == (120, 12)
    large = Samples([[torch.zeros(25, 5)], [torch.zeros(35, 6)], [torch.zeros(3, 7)]], [True], size=8, held=0.1, seed=0)
    assert [len(b.rows) for b in large.held()] == [2, 4]


class Slow(Fit):
    """Steps take a while."""

    def loss(self, batch: Minibatch, step: int) -> Tensor:
        time.sleep(0.01)
        return super().loss(batch, step)


def test_the_deadline_ends_the_search_for_a_rate_too() -> None:
    task = Slow(samples())
    outcome = train(task, task.samples, Recipe(steps=1000, deadline=time.monotonic() + 0.1))
    assert outcome.seconds < 1.0 and outcome.steps == 0 and "time was up" in outcome.stopped


def test_the_schedule_ends_by_the_deadline_where_there_is_a_time_limit() -> None:
    task = Slow(samples())
    outcome = train(task, task.samples, Recipe(rate=0.01, steps=1000, seconds=100.0, deadline=time.monotonic() + 0.5))
    assert outcome.planned < 200


class Clocked(Fit):
    """Seconds pass at steps and checks only: `early` at each of the first 20 steps, `late` at others, `check` at checks."""

    def __init__(
        self, samples: Samples, monkeypatch: pytest.MonkeyPatch, early: float, late: float, check: float = 0.0
    ) -> None:
        super().__init__(samples)
        self.early, self.late, self.check, self.now = early, late, check, 0.0
        monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: self.now))

    def loss(self, batch: Minibatch, step: int) -> Tensor:
        self.now += self.early if step < 20 else self.late
        return super().loss(batch, step)

    def held(self) -> float:
        self.now += self.check
        return super().held()


@pytest.mark.parametrize(("early", "late", "check"), [(0.1, 0.2, 0.0), (0.2, 0.1, 0.0), (0.1, 0.1, 0.7)])
def test_the_schedule_follows_the_time_that_steps_and_checks_take(
    early: float, late: float, check: float, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine of two speeds, or with much that is held out: the rate comes to zero, and the time is used."""
    task = Clocked(samples(count=640), monkeypatch, early, late, check)
    outcome = train(task, task.samples, Recipe(rate=0.01, epochs=math.inf, seconds=40.0))
    assert not outcome.stopped and outcome.steps == outcome.planned
    assert 36.0 <= outcome.seconds <= 40.0


def test_trying_rates_ends_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Clocked(samples(), monkeypatch, 1.0, 1.0)
    assert train(task, task.samples, Recipe(steps=1000, seconds=3.0)).seconds < 6.0


def test_a_check_when_the_time_is_up_is_not_counted() -> None:
    task = Slow(samples())
    with torch.no_grad():
        task.weight.copy_(torch.tensor([[1.0], [-2.0], [0.5], [3.0]]))
    recipe = Recipe(rate=0.1, steps=1000, checks=1, patience=1, deadline=time.monotonic() + 0.05)
    assert train(task, task.samples, recipe).stopped == "the time was up"


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_does_not_end_the_training(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr("mcomp.passes.compress.training.trainer.write_checkpoint", fail)
    task = Fit(samples())
    with pytest.warns(UserWarning, match="cannot be kept") as said:
        outcome = train(task, task.samples, RECIPE, checkpoint=tmp_path / "state.pt", identity="fit")
    assert outcome.improved and outcome.steps == 60
    assert sum("cannot be kept" in str(w.message) for w in said) == 1


def test_learned_scales_grow_by_a_small_part_and_do_not_decay() -> None:
    weight, scales, gain = torch.full((6, 4), 3.0), torch.zeros(6, 2), torch.ones(4)
    first, second, last = parameter_groups({"w:values": weight, "w:scales": scales, "g:values": gain}, 0.1)
    assert (first["size"], first["weight_decay"]) == (3.0, 0.1)
    assert (second["size"], second["weight_decay"]) == (0.02, 0.0)
    assert (last["size"], last["weight_decay"]) == (1.0, 0.0)
    scales.fill_(0.5)
    assert parameter_groups({"w:scales": scales, "x:scale": torch.tensor(0.5)}, 0.1)[0]["size"] == 0.02
