"""The trainer: steps of an optimizer with a schedule, early stopping, a time limit, and checkpoints to go on from."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mcomp.passes.compress.teaching import PLAIN
from mcomp.passes.compress.training.checkpoint import read_checkpoint, write_checkpoint
from mcomp.passes.compress.training.data import Minibatch, Samples
from mcomp.passes.compress.training.groups import parameter_groups
from mcomp.passes.compress.training.rates import NORMALIZED_RATE, PROBED, knows_rate, probe_steps

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    rate: of the optimizer at its highest, in proportion to the root mean square of what a tensor holds at the start (as
        Adafactor's, Shazeer and Stern 2018, section 8): with AdamW about the share by which a step changes it. None tries
        some and takes the one that does best in a few steps, but for long trainings of normalized convolutions
        (`NORMALIZED_RATE`).
    schedule: cosine or linear fall to zero after `warmup` (a share of the steps), or constant.
    steps: how many; None: `epochs` times through the data (infinity: as many as `seconds` have room for). A time limit that
        is too short for them makes them fewer.
    checks: how often the held-out loss is taken, evenly spread (less often where that would take longer than a quarter of
        what the steps do); `patience` of them without improvement end the training
        (0: never).
    clip: the largest norm of the gradient.
    deadline: the monotonic time when training stops wherever it is. The schedule is made to end by then only where there are
        `seconds`, too.
    told: called with the outcome.
    """

    rate: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    decay: float = 0.0
    momentum: float = 0.9
    steps: int | None = None
    epochs: float = 10.0
    seconds: float | None = None
    checks: int = 20
    patience: int = 0
    clip: float = 1.0
    seed: int = 0
    threads: int | None = None
    deadline: float | None = None
    told: Callable[[Outcome], object] | None = None


class Task(Protocol):
    """What is trained."""

    @property
    def kind(self) -> str:
        """What rates are good for: other tasks of the same kind."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Everything that is optimized, by name."""

    def buffers(self) -> Mapping[str, Tensor]:
        """What else a state has, by name: running statistics."""

    def loss(self, batch: Minibatch, step: int) -> Tensor:
        """The loss of a minibatch; differentiable. The same for the same tensors, batch and step."""

    def held(self) -> float:
        """The mean loss of what is held out."""


@dataclass
class Outcome:
    """What training came to. Losses are held-out ones: at the start, the best, and at every check by step."""

    first: float = math.nan
    best: float = math.nan
    best_step: int = 0
    steps: int = 0
    planned: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    stopped: str = ""
    """Why it ended early; empty when it did not."""
    backoffs: int = 0
    resumed_at: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    step_seconds: float = 0.0
    """Seconds of a step: the mean of some, without the first, which does what is done once."""
    check_seconds: float = 0.0
    """Seconds that taking the held-out loss takes."""
    held: int = 0
    """Minibatches that are held out."""
    probed: bool = False
    """Whether rates were tried."""
    kind: str = PLAIN
    """Of the task: trainings of the same kind go well at the same rate."""
    began: float = 0.0
    """The monotonic time when it began."""

    @property
    def interrupted(self) -> bool:
        return self.stopped == "interrupted"

    @property
    def cut(self) -> bool:
        """Whether the time or the user ended it: the same training, run again, may come to something else."""
        return self.interrupted or self.stopped == _TIME

    @property
    def improved(self) -> bool:
        """Whether the held-out loss is lower than at the start."""
        return self.best < self.first

    def seconds_for(self, steps: int, *, rated: bool = False) -> float:
        """Seconds of a training of so many steps, those in which rates are tried (unless one is given) and checks
        included."""
        rates = len(PROBED) if self.probed and not rated and not knows_rate(self.kind, steps) else 0
        checks = math.ceil(steps / check_interval(steps, Recipe.checks, self.held)) + rates + 1 if steps else 0
        return self.step_seconds * (steps + rates * probe_steps(steps)) + self.check_seconds * checks


_PROBE_SHARE = 0.15
_CLOSE = 0.05
_TIMED_MOST = 200
_MOST = 1 << 30
_PER_STEP, _CHECKED = 3.0, 0.25
"""Minibatches of a check that cost as much as a training step, and what checks may cost at most beside steps."""
_BACKOFFS = 6
_TIMED = 8
_ROOM, _MORE = 0.95, 0.02
"""The share of the time that steps are planned for, and from which share more of them on plans are made again."""
_SAY_SECONDS = 1.0
_TIME = "the time was up"


def check_interval(total: int, checks: int, held: int) -> int:
    """After how many steps of a training the held-out loss, of so many minibatches, is taken again."""
    return min(total, max(1, total // max(1, checks), math.ceil(held / _PER_STEP / _CHECKED)))


def train(
    task: Task, samples: Samples, recipe: Recipe, *, checkpoint: Path | None = None, identity: str = "",
    say: Say | None = None,
) -> Outcome:
    """Train, and leave the task's tensors at the state with the lowest held-out loss (that at the start included).

    The same task, samples and recipe give the same result on one machine, unless the time limit cuts steps off. With
    `checkpoint`, a file, the state is kept there at every check, and a training with the same `identity` (of model, data
    and options) goes on from it with the result that it would have had without the break. A loss that is not finite goes
    back to the best state and halves the rate. KeyboardInterrupt ends it with the best state; `Outcome.stopped` says so.
    """
    with _threads(recipe.threads):
        outcome = _Training(task, samples, recipe, checkpoint, identity, say or (lambda text: None)).run()
    if recipe.told is not None:
        recipe.told(outcome)
    return outcome


class _Training:
    def __init__(
        self, task: Task, samples: Samples, recipe: Recipe, checkpoint: Path | None, identity: str, say: Say
    ) -> None:
        self.task, self.samples, self.recipe = task, samples, recipe
        self.checkpoint, self.identity, self.say = checkpoint, identity, say
        self.started = time.monotonic()
        self.spent = 0.0
        per_epoch = max(1, samples.steps_per_epoch)
        wanted = recipe.steps if recipe.steps is not None else recipe.epochs * per_epoch
        self.wanted = self.total = max(1, round(min(wanted, _MOST)))
        self.step = 0
        self.factor = 1.0
        self.outcome = Outcome(planned=self.total, began=self.started, kind=task.kind)
        self.best: dict[str, Tensor] = {}
        self.epochs: dict[int, list[Minibatch]] = {}
        self.bad = 0
        self.said = self.started
        self.timed = False
        self.since = (0, 0.0)
        self.warned = False
        self.optimizer: torch.optim.Optimizer | None = None
        self._held_seconds: float | None = None
        self._times: list[float] = []

    def run(self) -> Outcome:
        tensors = self.task.tensors()
        if not tensors or not self.samples.trained_on:
            self.outcome.stopped = "there is nothing to train" if not tensors else "there is no data to train on"
            return self.outcome
        try:
            self._prepare()
            while self.step < self.total and not self._over():
                self._advance()
        except KeyboardInterrupt:
            self.outcome.stopped = "interrupted"
        self._restore(self.best)
        self.outcome.steps = self.step
        self.outcome.planned = self.total
        self.outcome.seconds = self._seconds()
        later = self._times[1:] or self._times
        self.outcome.step_seconds = sum(later) / len(later) if later else 0.0
        self.outcome.check_seconds = self._held_seconds or 0.0
        self.outcome.held = len(self.samples.held())
        return self.outcome

    def _prepare(self) -> None:
        saved = None if self.checkpoint is None else read_checkpoint(self.checkpoint, self.identity)
        if saved is not None:
            self._resume(saved)
            return
        began = time.monotonic()
        first = self.task.held()
        self._held_seconds = time.monotonic() - began
        self.outcome.first = self.outcome.best = first
        self.outcome.history.append((0, first))
        self.best = self._state()
        self.outcome.rate = self.recipe.rate if self.recipe.rate is not None else self._probe()
        self.optimizer = self._optimizer(self.outcome.rate)

    def _over(self) -> bool:
        if self.outcome.stopped:
            return True
        if self._late() or self._is_up():
            self.outcome.stopped = _TIME
            self._check(counts=False)
            return True
        return False

    def _advance(self) -> None:
        began = time.monotonic()
        finite = self._take(self._batch(self.step), self.step, self._rate(self.step, self.total))
        self.step += 1
        if not finite:
            self._back_off()
        self._fit_to_time(time.monotonic() - began)
        due = self.step % self._interval() == 0 or self.step == self.total
        if due:
            self._check()
            self._fit_again()
        if due or time.monotonic() - self.said >= _SAY_SECONDS:
            self.said = time.monotonic()
            self.say(f"training: held-out loss {self.outcome.best:.4g}, step {self.step} of {self.total}")

    def _take(self, batch: Minibatch, step: int, rate: float) -> bool:
        """One step; False, and nothing changed, when the loss or its gradient is not finite."""
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.factor * group["size"]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(batch, step)
        if not loss.requires_grad:
            self.outcome.stopped = "nothing that could be trained changes what is compared"
            return True
        if not bool(torch.isfinite(loss)):
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        given = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([p.grad for p in given if p.grad is not None])
        if not bool(torch.isfinite(norm)):
            return False
        if float(norm) > self.recipe.clip:
            torch.nn.utils.clip_grads_with_norm_(given, self.recipe.clip, norm)
        self.optimizer.step()
        return True

    def _back_off(self) -> None:
        self.outcome.backoffs += 1
        self.factor *= 0.5
        self._restore(self.best)
        self.optimizer = self._optimizer(self.outcome.rate)
        if self.outcome.backoffs >= _BACKOFFS:
            self.outcome.stopped = "the loss stayed infinite or NaN"

    def _check(self, *, counts: bool = True) -> None:
        """Take the held-out loss, and keep the state if it is the best one. counts: as one of the checks after which
        training may end for want of improvement; one in between, which a training without a break would not have, does
        not."""
        began = time.monotonic()
        found = self.task.held()
        self._held_seconds = time.monotonic() - began  # the first one does what is done once
        self.outcome.history.append((self.step, found))
        if found < self.outcome.best or (math.isnan(self.outcome.best) and not math.isnan(found)):
            self.outcome.best, self.outcome.best_step = found, self.step
            self.best = self._state()
            self.bad = 0
        elif counts:
            self.bad += 1
            if self.recipe.patience and self.bad >= self.recipe.patience:
                self.outcome.stopped = "the held-out loss no longer fell"
        self._save()

    def _rate(self, step: int, total: int) -> float:
        """The rate at a step: a linear warm-up, then the schedule."""
        warm = max(1, round(self.recipe.warmup * total)) if self.recipe.warmup > 0 else 0
        if step < warm:
            return self.outcome.rate * (step + 1) / warm
        share = (step - warm) / max(1, total - warm)
        if self.recipe.schedule == "cosine":
            return self.outcome.rate * 0.5 * (1.0 + math.cos(math.pi * share))
        return self.outcome.rate * (1.0 - share if self.recipe.schedule == "linear" else 1.0)

    def _probe(self) -> float:
        """The rate, of some, that does best in a few steps of a whole schedule: the largest of those whose held-out losses
        are within 5 % of the lowest, because few steps favour small ones."""
        scale = 1.0 if self.recipe.optimizer == "adamw" else 30.0
        start = self._state()
        losses: dict[float, float] = {}
        steps, planned = self._probe_steps()
        self._restore(start)
        if self.recipe.optimizer == "adamw" and knows_rate(self.task.kind, planned):
            return NORMALIZED_RATE
        self.outcome.probed = True
        for number, rate in enumerate(PROBED):
            if self._late() or self._is_up():
                break
            self.say(f"training: trying rates, {number + 1} of {len(PROBED)}")
            self.outcome.rate = rate * scale
            self.optimizer = self._optimizer(rate * scale)
            if all(not self._late() and self._take(self._batch(i), i, self._rate(i, steps)) for i in range(steps)):
                found = self.task.held()
                losses[rate * scale] = found if math.isfinite(found) else math.inf
            self._restore(start)
        lowest = min(losses.values(), default=math.inf)
        if not math.isfinite(lowest):
            return min(PROBED) * scale
        return max(rate for rate, loss in losses.items() if loss <= lowest + _CLOSE * abs(lowest))

    def _probe_steps(self) -> tuple[int, int]:
        """How many steps to try each rate for, as many as take a small part of the time limit; and about how many the whole
        training has time for."""
        steps = probe_steps(self.total)
        limit = self._limit
        if limit is None:
            return steps, self.total
        self.optimizer = self._optimizer(0.0)
        for step in range(2):  # the first step does work that is done once
            began = time.monotonic()
            self._take(self._batch(step), step, 0.0)
            usual = time.monotonic() - began
        usual = max(usual, 1e-9)
        room = _PROBE_SHARE * limit / len(PROBED) - self._check_seconds()
        return max(2, min(steps, int(room / usual))), min(self.total, int(limit / usual))

    def _optimizer(self, rate: float) -> torch.optim.Optimizer:
        groups = parameter_groups(self.task.tensors(), self.recipe.decay)
        if self.recipe.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.recipe.momentum, nesterov=self.recipe.momentum > 0)
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)

    def _batch(self, step: int) -> Minibatch:
        epoch, place = divmod(step, max(1, self.samples.steps_per_epoch))
        if epoch not in self.epochs:
            self.epochs = {epoch: self.samples.epoch(epoch)}
        return self.epochs[epoch][place]

    def _interval(self) -> int:
        return check_interval(self.total, self.recipe.checks, len(self.samples.held()))

    def _fit_to_time(self, last: float) -> None:
        """After some steps, make them as many as the time limit allows, so that the schedule comes to its end."""
        limit = self._limit
        if len(self._times) < _TIMED_MOST:
            self._times.append(last)
        if limit is None or self.timed:
            return
        if len(self._times) < _TIMED and self._seconds() < 0.1 * limit:
            return
        self.timed, self.since = True, (self.step, self._seconds())
        usual, room = max(_median(self._times), 1e-9), max(0.0, _ROOM * limit - self._seconds())
        most = max(1, min(self.total - self.step, int(room / usual)))
        checks = math.ceil(most / check_interval(most, self.recipe.checks, len(self.samples.held())))
        room -= checks * self._check_seconds()
        self.total = max(self.step + 1, min(self.total, self.step + int(room / usual)))

    def _fit_again(self) -> None:
        """At a check: as many steps as there is time for at the pace of those since the first ones were timed; not for a few
        more."""
        limit, (step, seconds) = self._limit, self.since
        if limit is None or not self.timed or not step < self.step < self.total:
            return
        each = (self._seconds() - seconds) / (self.step - step)
        room = max(_ROOM * limit - self._seconds(), 0.5 * (limit - self._seconds()))
        total = self.step + max(1, int(room / max(each, 1e-9)))
        if not self.total <= total <= (1.0 + _MORE) * self.total:
            self.total = min(self.wanted, total)

    def _check_seconds(self) -> float:
        if self._held_seconds is None:
            began = time.monotonic()
            self.task.held()
            self._held_seconds = time.monotonic() - began
        return self._held_seconds

    def _late(self) -> bool:
        return self.recipe.deadline is not None and time.monotonic() >= self.recipe.deadline

    def _is_up(self) -> bool:
        """Whether the seconds that the schedule has are over."""
        limit = self._limit
        return limit is not None and self._seconds() >= limit

    @property
    def _limit(self) -> float | None:
        """Seconds that the schedule has to come to its end in, those before a break included; None: what it takes."""
        seconds, deadline = self.recipe.seconds, self.recipe.deadline
        if seconds is None or deadline is None:
            return seconds
        return min(seconds, self.spent + deadline - self.started)

    def _seconds(self) -> float:
        """Seconds of training, those before a break included."""
        return self.spent + time.monotonic() - self.started

    # states

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._everything().items()}

    def _everything(self) -> dict[str, Tensor]:
        return {**self.task.tensors(), **self.task.buffers()}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._everything().items():
                if name in state:
                    tensor.copy_(state[name])

    def _save(self) -> None:
        if self.checkpoint is None or self.optimizer is None:
            return
        outcome = self.outcome
        state = {
            "step": self.step, "total": self.total, "factor": self.factor, "bad": self.bad, "timed": self.timed,
            "seconds": self._seconds(), "rate": outcome.rate, "first": outcome.first, "best_loss": outcome.best,
            "best_step": outcome.best_step, "backoffs": outcome.backoffs, "history": list(outcome.history),
            "state": self._state(), "best": self.best, "optimizer": self.optimizer.state_dict(),
            "stopped": "" if outcome.stopped == _TIME else outcome.stopped,
        }
        try:
            write_checkpoint(self.checkpoint, self.identity, state)
        except (OSError, RuntimeError) as e:  # torch raises the latter where a disk is full
            if not self.warned:
                self.warned = True
                warnings.warn(f"the training cannot be kept in {self.checkpoint} ({e})", stacklevel=2)

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self.step, self.total, self.factor = saved["step"], saved["total"], saved["factor"]
        self.bad, self.timed, self.spent = saved["bad"], saved["timed"], saved["seconds"]
        self.best, self.since = dict(saved["best"]), (self.step, self.spent)
        outcome = self.outcome
        outcome.rate, outcome.first, outcome.best = saved["rate"], saved["first"], saved["best_loss"]
        outcome.best_step, outcome.backoffs, outcome.stopped = saved["best_step"], saved["backoffs"], saved["stopped"]
        outcome.history = [(int(s), float(v)) for s, v in saved["history"]]
        outcome.resumed_at = self.step
        self._restore(saved["state"])
        self.optimizer = self._optimizer(outcome.rate)
        self.optimizer.load_state_dict(saved["optimizer"])


def _median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2] if times else 0.0


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mean_loss(losses: Sequence[tuple[float, int]]) -> float:
    """The mean of losses by how many samples each is of."""
    total = sum(count for _, count in losses)
    return sum(loss * count for loss, count in losses) / total if total else math.nan
