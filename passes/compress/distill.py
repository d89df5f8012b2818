"""`distill`: parts of a model learn, without labels, to give what the dense model gives there."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcomp.errors import PassError
from mcomp.ir.graph import Graph, LedgerEntry, Node
from mcomp.manager.context import CHECKPOINTS, DEADLINE, INTERRUPTED, PROGRESS, STUDENTS, TRAINED, Context
from mcomp.manager.passes import NONE, Pass, PassEffect, PassResult, named_option, register_pass
from mcomp.passes.cleanup.cse import Cse
from mcomp.passes.compress.encode import constant_bytes
from mcomp.passes.compress.finetune import common_features, finetune
from mcomp.passes.compress.ledger import settle
from mcomp.passes.compress.reconstruct import reconstruct
from mcomp.passes.compress.region import Region, child_regions, region_at, residual_regions
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.substitute import Substitution, substitute
from mcomp.passes.compress.teaching import UNCHANGED, Options, Report, float_constants, recording

if TYPE_CHECKING:
    from mcomp.passes.compress.training.trainer import Outcome, Recipe

STUDENT_KINDS = ("self", "narrower", "shallower", "given")
AUGMENTATIONS = ("mix", "noise", "images")
TEACHER = "distill.teacher"
"""Key of `Context.shared`: the graph as it was before the pipeline, which is what students learn from."""
FLOATS = "distill.floats"
"""Key of `Context.shared`: constants as the last `distill` left them in float, name to digest: what later passes round."""
_PASSES = "distill.passes"
_RATE = "distill.rate"
"""Key of `Context.shared`: the rates that were found for the whole model, by optimizer and kind of training. Later passes
take them, too."""
_EXACT = 1e-6
_EPOCHS = 20.0
_MARKED = 128
"""Calibration batches in which positions that do not matter are looked for, at most: as many as other passes use."""


@register_pass
@dataclass(frozen=True)
class Distill(Pass):
    """A region of the graph learns to give what it gave before the pipeline, on calibration inputs, without labels.

    before:
        %h = linear %x, %w1, %b1 : f32[B, 4096]  loc(body.0)
        %r = relu %h : f32[B, 4096]  loc(body.1)
        %y = linear %r, %w2, %b2 : f32[B, 10]  loc(body.2)
    after `distill{region=body, student=narrower, ratio=0.05}`:
        %h = linear %x, %w1, %b1 : f32[B, 205]  loc(body.0)
        %r = relu %h : f32[B, 205]  loc(body.1)
        %y = linear %r, %w2, %b2 : f32[B, 10]  loc(body.2)
    The nodes of a student stand in the graph where those of the region stood: every later pass sees plain nodes. Before the
    whole model is trained as it is, equal nodes become one (see `cse`): constants of theirs would be trained apart.

    region: module path; empty: the whole model.
    split: residual: each residual block in the region by itself, one after another; modules: each module directly below its
        path.
    student: self: the region as it is (compressed by earlier passes), quantization in the loop. narrower: of the region's
        layers, the share `ratio` of their units, those that pruning keeps. shallower: the share `ratio` of its layers,
        those that do most. given: the module in `mcomp.optimize(students={region: module})`. Or an nn.Module (not in text).
        Modules get the region's inputs and give what it gives.
    number: which, from 0, where several modules are given for the region.
    max_error: a student whose output is further off than this on held-out data (relative L2, root mean square over
        samples) is refused.
    seconds, steps, epochs: how long: so many steps, or epochs, or less where `seconds` end before; as long as `seconds`
        where these alone are given; 20 epochs where nothing is. Seconds are for all regions together.
    rate: about the share by which a step changes a tensor, with adamw; none tries some, except in long trainings that
        normalize. Later passes over the whole model take the rate that the first one found, of those that normalize like
        them.
    optimizer: adamw, or sgd with momentum. schedule: after a short warm-up the rate falls to zero, cosine or linear, or is
        constant. decay: the optimizer's weight decay, of matrices. batch: samples in a step.
    loss: for the model's outputs: kl, mse, cosine, or auto (see `Objective`); inside of the model always mse. temperature:
        of kl. features: weight of values inside, with student=self on the whole model.
    scales: also learn scales of quantization. mix: with blocks, the share of their input taken from the dense model.
    held: share of the calibration samples held out for early stopping. patience: checks, of 20, without improvement after
        which training ends (0: none).
    checkpoint: folder for states to go on from.
    augment: changes inputs, since there are few: mix (samples moved towards others), noise, images (mirrored, shifted), or
        a function (not in text) of a list of tensors. student=self takes it for the whole model only; other students see
        `copies` changed copies of every sample.
    precision: of the products in training steps: f32, bf16, or auto, whichever this processor does faster.
    normalize: batch: what convolutions over images give is normalized over the samples of a step while a student or the
        whole model learns, as by batch norms, and these are folded in the end; not where something is rounded already, nor
        convolutions without a bias. none: it is not.
    """

    name = "distill"
    effect = PassEffect.APPROXIMATE

    region: str = ""
    student: Any = "self"
    number: int = 0
    ratio: float = 0.5
    split: Literal["none", "residual", "modules"] = "none"
    max_error: float = 0.5
    seconds: float | None = None
    steps: int | None = None
    epochs: float | None = None
    rate: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    decay: float = 0.0
    batch: int = 64
    loss: Literal["auto", "kl", "mse", "cosine"] = "auto"
    temperature: float = 4.0
    features: float = 0.0
    scales: bool = False
    mix: float = 0.0
    held: float = 0.1
    patience: int = 0
    checkpoint: str | None = None
    augment: Any = None
    copies: int = 4
    precision: Literal["auto", "f32", "bf16"] = "auto"
    normalize: Literal["batch", "none"] = "batch"

    def text(self) -> str:
        """As for other passes; a module by its class, a function by its name."""
        options = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                plain = value if isinstance(value, (str, int, float)) else getattr(value, "__name__", type(value).__name__)
                options.append(named_option(type(self), field.name, plain))
        return self.name + (f"{{{','.join(options)}}}" if options else "")

    def check(self, graph: Graph, context: Context) -> None:
        known = isinstance(self.student, str) and self.student in STUDENT_KINDS
        if not known and (isinstance(self.student, str) or not callable(getattr(self.student, "forward", None))):
            raise PassError(f"distill: student is {self.student!r}", code="MC0204",
                            help=f"use one of {', '.join(STUDENT_KINDS)}, or Distill(student=module) with an nn.Module")
        if self.student == "given":
            count = len(context.shared.get(STUDENTS, {}).get(self.region, ()))
            if not count:
                raise PassError(f"distill: no student was given for {self.region!r}", code="MC0222",
                                help=f"pass students={{{self.region!r}: module}} to mcomp.optimize")
            if not 0 <= self.number < count:
                raise PassError(f"distill: number is {self.number}, and {count} were given for {self.region!r}",
                                code="MC0222", help="they are counted from 0")
        for name, good, wanted in self._ranges():
            if not good:
                raise PassError(f"distill: {name} is {getattr(self, name)}", code="MC0204", help=f"use {wanted}")
        self._check_augment()
        if context.calibration is None:
            raise PassError("distill: students learn from calibration data, and there is none", code="MC0205",
                            help="pass calibration=[...]")
        region_at(graph, self.region)
        if TEACHER not in context.shared:
            context.shared[TEACHER] = graph.clone()

    def _check_augment(self) -> None:
        if isinstance(self.augment, str) and self.augment not in AUGMENTATIONS:
            raise PassError(f"distill: augment is {self.augment!r}", code="MC0204",
                            help=f"use one of {', '.join(AUGMENTATIONS)}, or Distill(augment=function)")
        if self.augment is not None and not isinstance(self.augment, str) and not callable(self.augment):
            raise PassError("distill: augment is no function", code="MC0204", help="it takes and gives a list of tensors")
        if self.augment is not None and self.student == "self" and (self.region or self.split != "none"):
            raise PassError("distill: blocks are trained on calibration inputs as they are", code="MC0204",
                            help="leave augment away, or region and split")

    def _ranges(self) -> list[tuple[str, bool, str]]:
        return [
            ("ratio", 0.0 < self.ratio <= 1.0, "more than 0, at most 1"),
            ("max_error", self.max_error > 0, "a positive number"),
            ("seconds", self.seconds is None or self.seconds > 0, "a positive number of seconds"),
            ("steps", self.steps is None or self.steps > 0, "a positive number"),
            ("epochs", self.epochs is None or self.epochs > 0, "a positive number"),
            ("rate", self.rate is None or self.rate > 0, "a positive number, or none"),
            ("batch", self.batch > 0, "a positive number"),
            ("copies", self.copies >= 0, "0 or more"),
            ("held", 0.0 <= self.held < 1.0, "0 up to, but not, 1"),
            ("mix", 0.0 <= self.mix <= 1.0, "0 to 1"),
            ("temperature", self.temperature > 0, "a positive number"),
            ("patience", self.patience >= 0, "0 (never stop early) or more"),
        ]

    @recording()
    def run(self, graph: Graph, context: Context) -> PassResult:
        if context.calibration is None:
            raise PassError("distill: students learn from calibration data, and there is none", code="MC0205",
                            help="pass calibration=[...]")
        from mcomp.passes.compress.training.data import recorded

        dense = context.shared.get(TEACHER) or graph.clone()
        context.shared[_PASSES] = context.shared.get(_PASSES, 0) + 1
        if context.shared.get(INTERRUPTED):
            context.missed(self.name, self.region or graph.name, "an earlier training was interrupted",
                           "run it again; with a checkpoint it goes on from there")
            return PassResult(False)
        reason = self._misfit(graph, context)
        if reason is not None:
            context.missed(self.name, self.region or graph.name, reason, "choose another augment, or none")
            return PassResult(False)
        if not context.calibration.given:
            context.remark("warning", self.name, self.region, "students learn from the example inputs only",
                           "pass calibration data")
        context.calibration.batches = [[recorded(x) for x in batch] for batch in context.calibration.batches]
        size, entries = constant_bytes(graph), len(graph.ledger)
        if self.student != "self":
            result = self._substitute(graph, dense, context)
        elif not self.region and self.split == "none":
            result = self._whole(graph, dense, context)
        else:
            result = self._blocks(graph, dense, context)
        settle(graph, entries, size)
        context.shared[FLOATS] = {**context.shared.get(FLOATS, {}), **float_constants(graph)}
        return result

    def _misfit(self, graph: Graph, context: Context) -> str | None:
        """Why inputs cannot be changed as asked, those that have a row for each sample; None where they can, or have no
        rows."""
        if not isinstance(self.augment, str) or self.region:
            return None
        from mcomp.passes.compress.training.augment import misfit
        from mcomp.passes.compress.training.data import row_columns

        assert context.calibration is not None
        rows = row_columns([v.type for v in graph.inputs], [v.type for v in graph.outputs])
        batch = context.calibration.batches[0]
        return misfit(self.augment, [x for x, own in zip(batch, rows or ()) if own])

    # the region as it is

    def _whole(self, graph: Graph, dense: Graph, context: Context) -> PassResult:
        last = graph.outputs[0].producer if graph.outputs else None
        if last is None or context.excluded(self.name, last) or not context.allow_rewrite(self.name):
            return PassResult(False)
        assert context.calibration is not None
        merged = Cse().run(graph, context).changed
        if self.features > 0 and not common_features(graph, dense):
            context.missed(self.name, graph.name, "no value inside is trained: no residual sum is left of the dense model's",
                           "leave features away")
        known = context.shared.get(_RATE, {})
        rates = {kind: rate for (optimizer, kind), rate in known.items() if optimizer == self.optimizer}
        report = finetune(
            graph, dense, context.calibration, recipe=self.recipe(context), options=self.options(context), rates=rates,
            seed=context.seed, checkpoint=self._folder(context), progress=context.shared.get(PROGRESS),
        )
        if report.changed and report.outcome is not None:
            found = {(self.optimizer, report.outcome.kind): report.outcome.rate}
            context.shared[_RATE] = {**context.shared.get(_RATE, {}), **found}
        return PassResult(self._tell(graph, context, report) or merged, NONE, {"trained": report.changed})

    def _blocks(self, graph: Graph, dense: Graph, context: Context) -> PassResult:
        blocks = [b for b in self._regions(graph, context) if context.allow_rewrite(self.name)]
        assert context.calibration is not None
        reports = reconstruct(
            graph, dense, context.calibration, blocks, recipe=self.recipe(context), options=self.options(context),
            seed=context.seed, checkpoint=self._folder(context), progress=context.shared.get(PROGRESS),
        )
        changed = [self._tell(graph, context, report) for report in reports]
        return PassResult(any(changed), NONE, {"trained": sum(r.changed for r in reports), "blocks": len(reports)})

    def _tell(self, graph: Graph, context: Context, report: Report) -> bool:
        place = report.layer or graph.name
        if report.note:
            remedy = "" if report.note == UNCHANGED else "give smaller batches of what matters most first"
            context.remark("note", self.name, place, report.note, remedy)
        if report.interrupted:
            context.shared[INTERRUPTED] = True
            context.remark("note", self.name, place, "training was interrupted; the best state so far is kept")
        if not report.changed:
            reason = "it gives what it gave already" if report.before <= _EXACT and not report.reason else report.reason
            context.missed(self.name, place, reason or "training changed nothing", "train longer, or with more data")
            return False
        detail = f"trained to the dense model's output: error {report.before:.2%} before, {report.after:.2%} after"
        context.record(graph, LedgerEntry(self.name, place, report.node, error=report.after, detail=detail))
        context.remark("applied", self.name, place, f"{detail}; {_how(report)}")
        return True

    # other students

    def _substitute(self, graph: Graph, dense: Graph, context: Context) -> PassResult:
        mark_relevant(graph, context, _MARKED)
        regions = self._regions(graph, context)
        names = [(r.name, tuple(v.name for v in r.outputs)) for r in regions]
        recipe = self.recipe(context)
        deadline = None if recipe.seconds is None else time.monotonic() + recipe.seconds
        done = 0
        for number, (name, outputs) in enumerate(names):
            region = next((r for r in self._regions(graph, context, quiet=True)
                           if tuple(v.name for v in r.outputs) == outputs), None)
            if region is None or not context.allow_rewrite(self.name):
                continue
            share = recipe
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic()) / (len(names) - number)
                share = dataclasses.replace(recipe, seconds=left)
            found = substitute(
                region, dense, context, student=self._module(context), ratio=self.ratio, recipe=share,
                options=self.options(context), max_error=self.max_error, checkpoint=self._folder(context),
                progress=context.shared.get(PROGRESS),
            )
            done += self._tell_student(graph, context, name, found)
            if found.interrupted:
                break
        return PassResult(done > 0, NONE, {"students": done})

    def _module(self, context: Context) -> Any:
        return context.shared[STUDENTS][self.region][self.number] if self.student == "given" else self.student

    def _tell_student(self, graph: Graph, context: Context, name: str, found: Substitution) -> bool:
        place = name or graph.name
        if found.note:
            context.remark("note", self.name, place, found.note, "give smaller batches of what matters most first")
        if found.interrupted:
            context.shared[INTERRUPTED] = True
            context.remark("note", self.name, place, "training was interrupted; the best state so far counts")
        if found.reason:
            context.missed(self.name, place, found.reason, found.remedy)
            return False
        context.record(graph, LedgerEntry(
            self.name, place, found.node, error=found.error, bytes_saved=found.bytes_saved, detail=found.detail,
        ))
        context.remark("applied", self.name, place, f"{found.detail}; error {found.error:.2%}")
        return True

    # what and how

    def _regions(self, graph: Graph, context: Context, quiet: bool = False) -> list[Region]:
        """The regions asked for that may be changed."""
        whole = region_at(graph, self.region)
        found = [whole]
        if self.split == "residual":
            found = residual_regions(graph, whole if self.region else None)
        elif self.split == "modules":
            found = child_regions(graph, self.region)
        if not found and not quiet:
            context.missed(self.name, self.region or graph.name, f"there are no {self.split} blocks in it", "use split=none")
        kept = []
        for region in found:
            problem = region.problem()
            if problem is not None:
                if not quiet:
                    context.missed(self.name, region.name or graph.name, problem, "choose another region")
            elif not any(context.excluded(self.name, n) for n in region.nodes):
                kept.append(region)
        return kept

    def recipe(self, context: Context) -> Recipe:
        """How to train, within what is left of the time."""
        from mcomp.passes.compress.training.trainer import Recipe

        seconds = self.seconds
        deadline = context.shared.get(DEADLINE)
        fixed = self.steps is not None and seconds is None
        epochs = self.epochs if self.epochs is not None else _EPOCHS if seconds is None else math.inf

        def told(outcome: Outcome) -> None:
            context.shared[TRAINED] = (*context.shared.get(TRAINED, ()), outcome)

        if deadline is not None and not fixed:
            left = max(0.0, deadline - time.monotonic())
            seconds = left if seconds is None else min(seconds, left)
        return Recipe(
            rate=self.rate, optimizer=self.optimizer, schedule=self.schedule, decay=self.decay, steps=self.steps,
            epochs=epochs, seconds=seconds, patience=self.patience, seed=context.seed, threads=context.threads,
            deadline=deadline, told=told,
        )

    def options(self, context: Context) -> Options:
        """What training needs besides; constants of excluded layers stay as they are."""

        def keep(const: Node) -> bool:
            users = [u for u in const.result.users if u is not const.graph.returns]
            return any(_left_alone(context, user) for user in users)

        return Options(
            batch=self.batch, held=self.held, loss=self.loss, temperature=self.temperature, features=self.features,
            learn_scales=self.scales, augment=self.augment, copies=self.copies, mix=self.mix,
            keep=keep, floats=context.shared.get(FLOATS, {}), precision=self.precision, normalize=self.normalize,
        )

    def _folder(self, context: Context) -> Path | None:
        """Where states are kept: what was asked for, or the planner's folder; those of the second pass on, and all in the
        planner's, in a folder of the pass."""
        number = context.shared[_PASSES]
        if self.checkpoint is not None:
            return Path(self.checkpoint) if number == 1 else Path(self.checkpoint) / str(number)
        common = context.shared.get(CHECKPOINTS)
        return None if common is None else Path(common) / str(number)


def _left_alone(context: Context, node: Node) -> bool:
    """Whether the user excluded a node's layer; without a remark."""
    options = context.layer_options
    return any(
        options.excluded(path) is not None or options.options(path).get(Distill.name) is False for path in node.loc.paths
    )


def _how(report: Report) -> str:
    outcome = report.outcome
    if outcome is None:
        return "not trained"
    text = f"{outcome.steps} steps in {outcome.seconds:.0f} s at rate {outcome.rate:g}"
    if outcome.resumed_at:
        text += f", resumed at step {outcome.resumed_at}"
    return text + (f", ended because {outcome.stopped}" if outcome.stopped else "")


