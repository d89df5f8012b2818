"""The workshop: makes versions of a model by pipelines, compiles them, measures them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcomp.backend import CompileOptions, backend_named
from mcomp.errors import BudgetError
from mcomp.ir.graph import Graph
from mcomp.manager.context import CHECKPOINTS, DEADLINE, INTERRUPTED, PROGRESS, STUDENTS, TRAINED, TRAINING, Context
from mcomp.manager.defaults import AFTER, CLEANUP
from mcomp.manager.pipeline import parse_pipeline, pipeline_text
from mcomp.manager.run import PassManager
from mcomp.plan.captured import KEPT_BYTES, Work
from mcomp.plan.contest import race
from mcomp.plan.hurry import Hurry, OutOfTime
from mcomp.plan.identity import identity_of
from mcomp.plan.memory import Memory, stem_of
from mcomp.plan.progress import Progress
from mcomp.plan.quality import Evaluator, RelativeError, Score, check_alike, check_reference
from mcomp.plan.settings import Settings
from mcomp.plan.spread import Spread
from mcomp.report.render import quantity
from mcomp.runtime.artifact import used_weights
from mcomp.runtime.calibration import Calibration
from mcomp.runtime.choose import compile_on
from mcomp.runtime.compiled import Built, CompiledModel
from mcomp.runtime.program import CompiledProgram

Call = tuple[tuple[Any, ...], dict[str, Any]]

ORIGINAL = "original"
_TRIAL_BATCHES = 4
"""Calibration batches that trials are measured on."""


@dataclass(repr=False)
class Version:
    """The model after one pipeline: graphs and contexts by path, compiled, and what was measured of it."""

    name: str
    pipeline: str
    graphs: dict[str, Graph]
    contexts: dict[str, Context]
    built: Built
    error: float | None = None
    score: Score | None = None
    latency_ms: float | None = None
    within_budget: bool | None = None
    speedup: float | None = None
    verdict: str = ""
    """Why it was not kept."""
    cut: bool = False
    """Whether training in it was interrupted or ran out of time: the same pipeline gives another model."""

    @property
    def quality(self) -> float | None:
        """The result of evaluate, if it was called and gave a number that is finite."""
        return self.score.value if self.score is not None and self.score.finite else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight_bytes(g) for g in self.graphs.values())

    def __repr__(self) -> str:
        found = {"quality": (self.quality, ""), "error": (self.error, ""), "": (self.latency_ms, " ms")}
        known = [f"{name} {value:.4g}{unit}".strip() for name, (value, unit) in found.items() if value is not None]
        kept = {None: [], True: ["within the budget"], False: ["over the budget"]}[self.within_budget]
        return f"<Version {self.name!r}: {', '.join([*known, quantity(self.weight_bytes, 'B'), *kept])}>"

    def ledger(self) -> list[Any]:
        """The ledgers of all graphs."""
        return [entry for graph in self.graphs.values() for entry in graph.ledger]


def weight_bytes(graph: Graph) -> int:
    """Bytes of the weights that a graph uses; equal weights count once."""
    return sum(graph.store.get(d).nbytes for d in used_weights(graph))


class Workshop:
    """Everything needed to make and compare versions of one model."""

    def __init__(
        self, model: Any, captured: Any, works: list[Work], example: Call, settings: Settings, progress: Progress
    ) -> None:
        self.model = model
        self.captured = captured
        self.works = works
        for work in works:
            work.room = KEPT_BYTES // len(works)
        self.example = example
        self.settings = settings
        self.progress = progress
        self.versions: list[Version] = []
        self.evaluator = Evaluator(settings.evaluate) if settings.evaluate is not None else None
        self.original_score: Score | None = None
        self.original_ms: float | None = None
        self.started = time.monotonic()
        self.warnings: list[str] = []
        self.faults: list[str] = []
        """Tracebacks of what failed in mcomp itself."""
        self.memory = Memory.open(None if settings.resume is None else Path(settings.resume), self._identity())
        self.interrupted = False
        """Whether the user interrupted the search, or a pass that gave what it had by then."""
        self.installed: Version | None = None
        """Whose parts are in the eager module."""

    def _identity(self) -> str:
        """What a search that goes on from disk must agree in."""
        return identity_of(self.settings, self.works) if self.settings.resume is not None else ""

    # time

    @property
    def deadline(self) -> float | None:
        """The monotonic time when work must end."""
        return None if self.settings.time_limit is None else self.started + self.settings.time_limit

    def seconds_left(self, share: float = 1.0) -> float | None:
        """Seconds until a share of the time limit is used up, at least 0; None without a limit."""
        if self.settings.time_limit is None:
            return None
        return max(0.0, self.started + share * self.settings.time_limit - time.monotonic())

    def out_of_time(self, share: float = 1.0) -> bool:
        """Whether a share of the time limit has passed."""
        left = self.seconds_left(share)
        return left is not None and left <= 0.0

    def say(self, text: str) -> None:
        """Show what goes on in work that can be given up. Raises OutOfTime when the time is up."""
        self.progress.step(text)
        if self.out_of_time():
            raise OutOfTime

    def spread(self) -> Spread:
        """Where work of layers is done."""
        return Spread(self.settings.executor, self.say)

    # making versions

    def lossless(self) -> Version:
        """The model after the lossless clean-ups."""
        self.progress.step("cleaning up the graph")
        contexts: dict[str, Context] = {}
        graphs: dict[str, Graph] = {}
        for work in self.works:
            context = self.context_of(work)
            graph = work.program.graph.clone()
            PassManager(CLEANUP, self.settings.instruments).run(graph, context)
            work.cleaned = graph
            contexts[work.path], graphs[work.path] = context, graph
        return self._finish("lossless", CLEANUP, graphs, contexts)

    def make(self, name: str, pipeline: Any, *, hurry: bool = False) -> Version:
        """The cleaned-up model after a further pipeline. What is kept on disk of the same pipeline is taken from there.
        `hurry`: raise OutOfTime between passes when the time is up."""
        self.progress.step(f"{name}: running passes")
        steps = parse_pipeline(pipeline)
        text = pipeline_text(steps)
        contexts = {work.path: self.context_of(work) for work in self.works}
        graphs, cut = self.memory.version(text, contexts), False
        if graphs is None:
            graphs = {}
            for work in self.works:
                context = contexts[work.path]
                if self.memory.folder is not None:
                    context.shared[CHECKPOINTS] = self.memory.folder / f"{stem_of(text)}-states"
                graphs[work.path] = self._run(work, steps, context, hurry)
            cut = self._cut(name, contexts)
            if not cut:
                self.memory.keep_version(text, graphs, contexts)
        version = self._finish(name, text, graphs, contexts)
        version.cut = cut
        for work in self.works:
            contexts[work.path].remarks[:0] = [
                r for r in self.versions[0].contexts[work.path].remarks if r not in contexts[work.path].remarks
            ]
        return version

    def _cut(self, name: str, contexts: Mapping[str, Context]) -> bool:
        """Whether training was interrupted or ran out of time, which the user is told."""
        interrupted = any(context.shared.get(INTERRUPTED) for context in contexts.values())
        if not interrupted and not any(t.cut for context in contexts.values() for t in context.shared.get(TRAINED, ())):
            return False
        how = "interrupted" if interrupted else "cut short by the time limit"
        self.warnings.append(f"the training of {name} was {how}: its pipeline gives another model when run again")
        return True

    def trial(self, work: Work, pipeline: str, context: Context | None = None) -> Graph:
        """A cleaned-up graph after a pipeline, not compiled. Raises OutOfTime between passes when the time is up, and
        KeyboardInterrupt when the user interrupted a pass that gave what it had by then."""
        graph = self._run(work, parse_pipeline(pipeline), context or self.context_of(work), True)
        if self.interrupted:
            raise KeyboardInterrupt
        return graph

    def trial_error(self, work: Work) -> Callable[[str], float]:
        """A function from a pipeline to the relative L2 error of the interpreted graph's outputs on some calibration
        data, of which passes see a part, too."""

        def measure(pipeline: str) -> float:
            graph = self.trial(work, pipeline, self.context_of(work, work.few))
            error = RelativeError()
            for batch, expected in work.expected(_TRIAL_BATCHES):
                error.add(work.calibration.outputs_of(graph, batch), expected)
            return error.value

        return measure

    def _run(self, work: Work, steps: Sequence[Any], context: Context, hurry: bool) -> Graph:
        assert work.cleaned is not None
        instruments = (*self.settings.instruments, *([Hurry(self.out_of_time)] if hurry else []))
        whole = (*steps, *parse_pipeline(AFTER))
        trail = work.trail if context.calibration is work.calibration else work.glances
        graph = trail.run(work.cleaned, whole, context, instruments)
        self.interrupted |= bool(context.shared.get(INTERRUPTED))
        return graph

    def context_of(self, work: Work, calibration: Calibration | None = None) -> Context:
        """What passes share while they run over a program's graph. calibration: other data than the work's."""
        context = Context(
            target=self.settings.target, objective=self.settings.objective, layers=self.settings.layers,
            exclude=self.settings.exclude, calibration=calibration or work.calibration, threads=self.settings.threads,
            seed=self.settings.seed,
        )
        context.shared.update({PROGRESS: self.progress.step, STUDENTS: self.settings.students})
        if self.deadline is not None:
            context.shared.update({DEADLINE: self.deadline, TRAINING: self.seconds_left()})
        return context

    def _finish(self, name: str, pipeline: str, graphs: dict[str, Graph], contexts: dict[str, Context]) -> Version:
        self.progress.step(f"{name}: compiling")
        backend = backend_named(self.settings.target)
        programs: dict[str, CompiledProgram] = {}
        for work in self.works:
            graph, program = graphs[work.path], work.program
            isa = self.settings.target.partition(":")[2] or None
            options = CompileOptions(isa=isa, threads=self.settings.threads, hints=self.hints(work))
            if backend.available() is None:
                backend.tune(graph, options, lambda text: self.progress.step(f"{name}: {text}"))
                self.progress.step(f"{name}: compiling")
            executable = compile_on(backend, graph, options, contexts[work.path])
            programs[work.path] = CompiledProgram(
                graph, executable, program.signature, program.arguments, program.results, program.rebinds
            )
        from mcomp.report.report import Report

        whole = programs.get("") if self.captured.program is not None else None
        built = Built(
            program=whole, parts={} if whole is not None else programs, eager=self.captured.fallback, report=Report()
        )
        version = Version(name, pipeline, graphs, contexts, built)
        self.versions.append(version)
        return version

    def leave_out(self, version: Version) -> None:
        """Forget a version, one that cannot be run."""
        self.versions = [v for v in self.versions if v is not version]

    def hints(self, work: Work) -> dict[str, int]:
        """The sizes of the example arguments, by symbol."""
        from mcomp.ops.evaluate import bind_symbols

        return bind_symbols(work.program.graph, [tuple(t.shape) for t in self.example_leaves(work)])

    def example_leaves(self, work: Work) -> list[Any]:
        """The flat example arguments of a program (for parts, the first calibration batch)."""
        if work.path or self.captured.program is None:
            return work.calibration.batches[0]
        leaves: list[Any] = []
        from mcomp.capture import structure

        bound = work.program.signature.bind(*self.example)
        structure.collect(work.program.arguments, bound, leaves)
        return leaves

    # judging versions

    def install(self, version: Version) -> None:
        """Put a version's parts into the eager module, where the model was captured in parts and they are not there yet."""
        if version.built.program is None and self.installed is not version:
            self.installed = None
            for path, program in version.built.parts.items():
                self.captured.install(path, _caller(program))
            self.installed = version

    def compiled(self, version: Version) -> CompiledModel:
        """A version as users see it."""
        self.install(version)
        return CompiledModel(version.built, target=self.settings.target, original=self.model)

    def judge_error(self, version: Version) -> float:
        """Relative L2 error of a version's compiled outputs on calibration data."""
        if version.error is None:
            error = RelativeError()
            for work in self.works:
                program = version.built.programs()[work.path]
                kinds = [s.kind for s in version.graphs[work.path].output_specs]
                for batch, expected in work.expected():
                    outputs = program.session().run([t.clone() for t in batch], numpy=False)
                    error.add(outputs, [y for y, kind in zip(expected, kinds) if kind == "result"])
            version.error = error.value
        return version.error

    def judge_quality(self, version: Version) -> Score:
        """The user's evaluate on a version."""
        assert self.evaluator is not None
        if version.score is None and not version.cut:
            version.score = self.memory.score(version.pipeline, self.evaluator)
        if version.score is None:
            self.progress.step(f"{version.name}: evaluating")
            compiled = self.compiled(version)
            score = self.evaluator(compiled.module(), version.name)
            compiled.reset_state()
            if self.settings.max_drop is not None:
                check_alike(score, self.judge_original(), version.name)
            version.score = score
            if not version.cut:
                self.memory.keep_score(version.pipeline, version.score, self.evaluator)
        return version.score

    def judge_original(self) -> Score:
        """The user's evaluate on the original model."""
        assert self.evaluator is not None
        if self.original_score is None:
            self.original_score = self.memory.score(ORIGINAL, self.evaluator)
        if self.original_score is None:
            self.progress.step("evaluating the original")
            self.original_score = check_reference(self.evaluator(self.model, ORIGINAL), ORIGINAL)
            self.memory.keep_score(ORIGINAL, self.original_score, self.evaluator)
        return self.original_score

    def load(self, version: Version) -> float:
        """What was measured of a version as a share of the budget: at most 1 within it, 0 where nothing is lost; infinite
        where evaluate gave nothing to compare."""
        settings, found = self.settings, [0.0]
        if settings.max_error is not None:
            found.append(_share(self.judge_error(version), settings.max_error))
        if settings.max_drop is not None and version.score is not None:
            found.append(_share(version.score.drop_from(self.judge_original())[1], settings.max_drop))
        if version.within_budget:
            return min(1.0, max(found))
        failed = version.within_budget is False and max(found) <= 1.0
        return math.inf if failed else max(found)

    def within_budget(self, version: Version) -> bool:
        """Whether a version keeps the budget; measures what that needs."""
        settings = self.settings
        fits = True
        if settings.max_error is not None:
            error = self.judge_error(version)
            fits = error <= settings.max_error
            if not fits:
                version.verdict = f"over budget: output error {error:.3g}"
        if fits and settings.max_drop is not None:
            drop, upper = self.judge_quality(version).drop_from(self.judge_original())
            fits = upper <= settings.max_drop + 1e-12
            if not math.isfinite(drop):
                version.verdict = "over budget: evaluate gave NaN or infinity"
            elif not fits:
                surely = f" (95 % sure: at most {upper:.3g})" if upper > drop else ""
                version.verdict = f"over budget: evaluate drops by {drop:.4g}{surely}"
        version.within_budget = fits
        return fits

    def try_budget(self, version: Version) -> bool:
        """As `within_budget`, for the version that is kept in any case: an evaluate that fails is a warning."""
        try:
            return self.within_budget(version)
        except BudgetError as e:
            self.warnings.append(f"the budget was not judged on {version.name}: {e.message}")
            return False

    def try_quality(self, version: Version) -> None:
        """Evaluate the version that is kept, where the user gave evaluate; one that fails is a warning."""
        if self.evaluator is None or version.score is not None:
            return
        try:
            if not self.judge_quality(version).finite:
                self.warnings.append(f"{version.name} has no quality: evaluate gave NaN or infinity")
        except BudgetError as e:
            self.warnings.append(f"{version.name} has no quality: {e.message}")

    def measure(self, versions: Sequence[Version], budget: float = 3.0) -> None:
        """Time versions, and the original, in turns, on the example arguments, so that their times can be compared."""
        timing = race(self, versions, original=True, budget=budget)
        self.original_ms = timing.median(0) * 1e3
        for i, version in enumerate(versions, 1):
            version.latency_ms = timing.median(i) * 1e3
            version.speedup = timing.ratio(0, i)
        for version in versions:
            self.judge_error(version)

    def speedups(self, versions: Sequence[Version], than: Version) -> list[float]:
        """How many times faster each version is than another one; all are timed in turns."""
        timing = race(self, [than, *versions], original=False, budget=0.5 + 0.5 * len(versions))
        for i, version in enumerate((than, *versions)):
            version.latency_ms = timing.median(i) * 1e3
        return [timing.ratio(0, i) for i in range(1, len(versions) + 1)]

    def close(self) -> None:
        """Let go of what only the search needed: versions are kept with their remarks, for the reports that are asked for
        later."""
        for work in self.works:
            work.trail.forget()
            work.glances.forget()
            work.calibration.memo.clear()
            work.few.memo.clear()
            work.outputs.clear()
        for version in self.versions:
            for path, context in version.contexts.items():
                context.shared.clear()
                version.contexts[path] = Context()
                version.contexts[path].remarks = context.remarks

    # telling

    @property
    def original_quality(self) -> float | None:
        return None if self.original_score is None else self.original_score.value

    @property
    def original_bytes(self) -> int:
        """Bytes of the original's parameters and buffers; shared ones count once."""
        tensors = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())


def _share(value: float, limit: float) -> float:
    if limit <= 0.0:
        return 0.0 if value <= 0.0 else float("inf")
    return value / limit


def _caller(program: CompiledProgram) -> Any:
    return lambda *args, **kwargs: program.call(args, kwargs)


