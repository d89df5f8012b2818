"""The workshop: makes versions of a model by pipelines, compiles them, measures them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.backend import CompileOptions, backend_named
from mcomp.errors import BudgetError
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.defaults import AFTER, CLEANUP
from mcomp.manager.pipeline import parse_pipeline, pipeline_text
from mcomp.manager.run import PassManager
from mcomp.plan.contest import race
from mcomp.plan.progress import Progress
from mcomp.plan.quality import Evaluator, Score, relative_error
from mcomp.plan.settings import Settings
from mcomp.runtime.artifact import used_weights
from mcomp.runtime.calibration import Calibration
from mcomp.runtime.choose import compile_on
from mcomp.runtime.compiled import Built, CompiledModel
from mcomp.runtime.program import CompiledProgram

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Work:
    """One captured program, its calibration data, and its cleaned-up graph once there is one."""

    path: str
    program: Any
    calibration: Calibration
    cleaned: Graph | None = None
    outputs: list[list[Any]] | None = None

    @property
    def program_is_plain(self) -> bool:
        """Whether the program keeps no state and writes to none of its arguments."""
        graph = self.program.graph
        return (
            not self.program.rebinds and all(s.kind == "arg" for s in graph.input_specs)
            and all(s.kind == "result" for s in graph.output_specs)
        )

    def expected(self) -> list[list[Any]]:
        """Outputs of the graph as captured, on the calibration data."""
        if self.outputs is None:
            self.outputs = self.calibration.outputs(self.program.graph)
        return self.outputs


@dataclass
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

    @property
    def quality(self) -> float | None:
        """The result of evaluate, if it was called."""
        return None if self.score is None else self.score.value

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight_bytes(g) for g in self.graphs.values())

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
        self.example = example
        self.settings = settings
        self.progress = progress
        self.versions: list[Version] = []
        self.evaluator = Evaluator(settings.evaluate) if settings.evaluate is not None else None
        self.original_score: Score | None = None
        self.original_ms: float | None = None
        self.deadline = None if settings.time_limit is None else time.monotonic() + settings.time_limit
        self.warnings: list[str] = []

    # making versions

    def lossless(self) -> Version:
        """The model after the lossless clean-ups."""
        self.progress.step("cleaning up the graph")
        contexts: dict[str, Context] = {}
        graphs: dict[str, Graph] = {}
        for work in self.works:
            context = self._context(work)
            graph = work.program.graph.clone()
            PassManager(CLEANUP, self.settings.instruments).run(graph, context)
            work.cleaned = graph
            contexts[work.path], graphs[work.path] = context, graph
        return self._finish("lossless", CLEANUP, graphs, contexts)

    def make(self, name: str, pipeline: Any, skip: Mapping[str, set[str]] | None = None) -> Version:
        """The cleaned-up model after a further pipeline; `skip` names nodes that a rule must leave alone."""
        self.progress.step(f"{name}: running passes")
        steps = (*parse_pipeline(pipeline), *parse_pipeline(AFTER))
        contexts: dict[str, Context] = {}
        graphs: dict[str, Graph] = {}
        for work in self.works:
            assert work.cleaned is not None
            context = self._context(work)
            context.skip = {rule: set(names) for rule, names in (skip or {}).items()}
            graph = work.cleaned.clone()
            PassManager(steps, self.settings.instruments).run(graph, context)
            contexts[work.path], graphs[work.path] = context, graph
        version = self._finish(name, pipeline_text(parse_pipeline(pipeline)), graphs, contexts)
        for work in self.works:
            contexts[work.path].remarks[:0] = [
                r for r in self.versions[0].contexts[work.path].remarks if r not in contexts[work.path].remarks
            ]
        return version

    def _context(self, work: Work) -> Context:
        return Context(
            target=self.settings.target, objective=self.settings.objective, layers=self.settings.layers,
            exclude=self.settings.exclude, calibration=work.calibration, threads=self.settings.threads,
            seed=self.settings.seed,
        )

    def _finish(self, name: str, pipeline: str, graphs: dict[str, Graph], contexts: dict[str, Context]) -> Version:
        self.progress.step(f"{name}: compiling")
        backend = backend_named(self.settings.target)
        programs: dict[str, CompiledProgram] = {}
        for work in self.works:
            graph, program = graphs[work.path], work.program
            isa = self.settings.target.partition(":")[2] or None
            options = CompileOptions(isa=isa, threads=self.settings.threads, hints=self._hints(work))
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

    def _hints(self, work: Work) -> dict[str, int]:
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
        """Put a version's parts into the eager module, where the model was captured in parts."""
        if version.built.program is None:
            for path, program in version.built.parts.items():
                self.captured.install(path, _caller(program))

    def compiled(self, version: Version) -> CompiledModel:
        """A version as users see it."""
        self.install(version)
        return CompiledModel(version.built, target=self.settings.target, original=self.model)

    def judge_error(self, version: Version) -> float:
        """Relative L2 error of a version's compiled outputs on calibration data."""
        if version.error is None:
            ours: list[list[Any]] = []
            theirs: list[list[Any]] = []
            for work in self.works:
                program = version.built.programs()[work.path]
                for batch, expected in zip(work.calibration.batches, work.expected(), strict=True):
                    kinds = [s.kind for s in version.graphs[work.path].output_specs]
                    outputs = program.session().run([t.clone() for t in batch], numpy=False)
                    ours.append(outputs)
                    theirs.append([y for y, kind in zip(expected, kinds) if kind == "result"])
            version.error = relative_error(ours, theirs)
        return version.error

    def judge_quality(self, version: Version) -> Score:
        """The user's evaluate on a version."""
        assert self.evaluator is not None
        if version.score is None:
            self.progress.step(f"{version.name}: evaluating")
            compiled = self.compiled(version)
            version.score = self.evaluator(compiled.module(), version.name)
            compiled.reset_state()
        return version.score

    def judge_original(self) -> Score:
        """The user's evaluate on the original model."""
        assert self.evaluator is not None
        if self.original_score is None:
            self.progress.step("evaluating the original")
            self.original_score = self.evaluator(self.model, "original")
        return self.original_score

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
            if not fits:
                surely = f" (95 % sure: at most {upper:.3g})" if upper > drop else ""
                version.verdict = f"over budget: evaluate drops by {drop:.3g}{surely}"
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
            self.judge_quality(version)
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

    # telling

    @property
    def original_quality(self) -> float | None:
        return None if self.original_score is None else self.original_score.value

    @property
    def original_bytes(self) -> int:
        """Bytes of the original's parameters and buffers; shared ones count once."""
        tensors = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def budget_text(self) -> str:
        """The budget in words."""
        parts = []
        if self.settings.max_drop is not None:
            parts.append(f"evaluate drops at most {self.settings.max_drop:g}")
        if self.settings.max_error is not None:
            parts.append(f"output error at most {self.settings.max_error:g}")
        return " and ".join(parts)

    def verdict(self, version: Version, chosen: Version) -> str:
        """Why a version was kept or not, in words."""
        if version is chosen:
            return "kept"
        if version.verdict or version is self.versions[0]:
            return version.verdict
        return f"within budget, but {chosen.name} is better" if version.within_budget else f"not judged: {chosen.name} fits"

    def notes(self, chosen: Version) -> list[str]:
        """Sentences about the outcome."""
        out = list(self.warnings)
        if chosen.speedup is not None and chosen.speedup < 0.98:
            out.append(
                f"on the example arguments the compiled model is {1 / chosen.speedup:.2f}x slower than the original"
            )
        if chosen.within_budget is False:
            out.append("the budget could not be met; this is the nearest version found")
        return out

    def frontier(self, chosen: Version) -> list[Version]:
        """The chosen version, and those that no other beats in quality (or error), latency and bytes at once."""
        measured = [v for v in self.versions if v.latency_ms is not None]
        for version in measured:
            self.judge_error(version)
        return [v for v in measured if v is chosen or not any(_dominates(o, v) for o in measured if o is not v)]


def _loss(version: Version) -> float:
    if version.score is not None:
        return -version.score.value
    return version.error if version.error is not None else 0.0


def _dominates(a: Version, b: Version) -> bool:
    if (a.score is None) != (b.score is None):
        return False
    left = (_loss(a), a.latency_ms or 0.0, a.weight_bytes)
    right = (_loss(b), b.latency_ms or 0.0, b.weight_bytes)
    return all(x <= y for x, y in zip(left, right)) and left != right


def _caller(program: CompiledProgram) -> Any:
    return lambda *args, **kwargs: program.call(args, kwargs)


