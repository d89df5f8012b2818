"""``python -m benchmarks.frontier``: the planner's front beside each single technique, our own int8 and other runtimes.

For each model one search under one budget: it sees unlabelled inputs and a labelled selection split. What it kept, and the
rest of its front, is saved, then scored once on the test set and timed beside the others in interleaved rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, models, peers, singles
from benchmarks.case import Array, Case, tensors
from benchmarks.cpu import Plan, _names, _runners, run_case, say
from benchmarks.peers.artifact import place
from benchmarks.peers.ours import INT8_PIPELINE
from benchmarks.remote import WorkerFailed
from benchmarks.results import CaseResult, Entry, Results

if TYPE_CHECKING:
    import mcomp

BATCHES = {"efficientnet_lite0": 2}
"""Inputs of a calibration batch, where it is not `BATCH`."""
BATCH = 8
TOGETHER = 50
STEP = 8
"""Sentences are cut to multiples of so many tokens, where the model takes any number."""
PLAN, UNTRAINED = "plan", "plan, no training"


@dataclass(frozen=True)
class Goal:
    """A row of the goals: the case, how much of its metric may go, how long a search may take, and single techniques beside
    which the plan is shown. tuned: those with `SHARE` in their pipelines, the least of which that keeps the budget is found
    where that is asked for. untrained: also a search without training. students_of: widths of MLPs that the search is given
    as students for the whole model. augment: how inputs are changed when single techniques are trained, as searches do."""

    case: str
    drop: float = 1.0
    singles: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, str] = field(default_factory=dict)
    minutes: float = 30.0
    objective: str = "latency"
    untrained: bool = False
    students_of: tuple[tuple[int, ...], ...] = ()
    augment: str = ""

    def trained(self, seconds: float) -> dict[str, str]:
        """Single techniques that remove or factor something, each with a training of so many seconds behind it."""
        augment = f"augment={self.augment}," if self.augment else ""
        return {
            f"{name}, distill": f"{pipeline},distill{{{augment}seconds={seconds:g}}}"
            for name, pipeline in self.singles.items()
            if "distill" not in pipeline and not pipeline.startswith("quantize") and f"{name}, distill" not in self.singles
        }

    def students(self) -> dict[str, Any]:
        """What `mcomp.optimize(students=...)` gets."""
        import torch
        from torch import nn

        def network(widths: tuple[int, ...]) -> nn.Module:
            torch.manual_seed(0)
            layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
            return nn.Sequential(*layers[:-1])

        return {"": [network(widths) for widths in self.students_of]} if self.students_of else {}


_CHANNELS = {
    "prune 73%": "prune{flops=0.728,what=[channels]}", "prune 50%": "prune{flops=0.5,what=[channels]}",
    "lowrank": "lowrank{ratio=0.6}", "lowrank, faster layers": "lowrank{ratio=0.6,measured=true}",
}
_DISTILLED = {
    "prune 73%, 4 rounds": "prune{flops=0.728,what=[channels],rounds=4}",
    "prune 73%, distill": "prune{flops=0.728,what=[channels],rounds=4},distill{augment=images,seconds=600}",
    "prune 50%, distill": "prune{flops=0.5,what=[channels],rounds=4},distill{augment=images,seconds=1500}",
}
_INT4 = {"int4": "quantize{bits=4}", "int4, int8 activations": "quantize{bits=4,activations=static}"}
_UNITS = {
    "prune 50%": "prune{flops=0.5,what=[ffn]}", "lowrank": "lowrank{ratio=0.5}",
    "lowrank, faster layers": "lowrank{ratio=0.5,measured=true}", "blocks 50%": "prune{ratio=0.5,what=[blocks]}", **_INT4,
}
_TUNED_CHANNELS = {"prune, tuned": "prune{flops=SHARE,what=[channels]}", "lowrank, tuned": "lowrank{ratio=SHARE}"}
_TUNED_UNITS = {"prune, tuned": "prune{flops=SHARE,what=[ffn,heads]}", "lowrank, tuned": "lowrank{ratio=SHARE}"}
_HEADS = {"prune 50%, heads": "prune{flops=0.5,what=[ffn,heads]}"}
GOALS = {
    "resnet20": Goal("resnet20", singles={**_CHANNELS, **_DISTILLED}, tuned=_TUNED_CHANNELS, minutes=10, augment="images"),
    "resnet56": Goal("resnet56", singles=_CHANNELS, tuned=_TUNED_CHANNELS, untrained=True, augment="images"),
    "minilm": Goal("minilm", singles={**_UNITS, **_HEADS}, tuned=_TUNED_UNITS, untrained=True),
    "efficientnet_lite0": Goal("efficientnet_lite0", singles=_CHANNELS, tuned=_TUNED_CHANNELS, augment="images"),
    **{
        f"isolet{i}": Goal(f"isolet{i}", singles=_UNITS, tuned=_TUNED_UNITS, minutes=4, objective="size", untrained=True,
                          augment="mix")
        for i in range(5)
    },
    "fashion": Goal("fashion", drop=0.5, singles=_INT4, objective="size", minutes=10, augment="mix",
                    students_of=((100, 128, 64, 10), (100, 64, 32, 10))),
}


def calibration_of(case: Case) -> list[tuple[Any, ...]]:
    """Unlabelled batches. Of a model that takes any number of tokens, those that the batch's sentences have."""
    samples, size = case.unlabelled or case.calibration, BATCHES.get(case.name, BATCH)
    batches = [(rows, arrays) for rows, arrays in batched(case, samples.inputs, size) if len(rows) == size]
    order = range(len(batches)) if case.dynamic is None else np.random.default_rng(0).permutation(len(batches))
    return [tensors(batches[i][1]) for i in order]


def batched(case: Case, inputs: Sequence[Array], size: int) -> list[tuple[Array, list[Array]]]:
    """Which rows, and their inputs, at most `size` at a time. Of a model that takes any number of tokens, rows of about as
    many go together, cut to that."""
    if case.dynamic is None:
        parts = [(np.arange(len(inputs[0])), None)]
    else:
        tokens = -(-inputs[-1].sum(-1) // STEP) * STEP
        parts = [(np.flatnonzero(tokens == length), int(length)) for length in np.unique(tokens)]
    batches = [(rows[i : i + size], length) for rows, length in parts for i in range(0, len(rows), size)]
    return [(rows, [a[rows] if length is None else a[rows, :length] for a in inputs]) for rows, length in batches]


def evaluator(case: Case) -> Any:
    """The metric on the selection split: one number. Scores by sample would be judged by the upper end of an interval, which
    for splits of a few hundred is wider than the budgets here."""
    import torch

    samples, metric = case.selection, case.metric
    if samples is None or metric is None or samples.labels is None:
        raise models.Unavailable(f"{case.name} has no labelled selection data")
    labels = samples.labels
    batches = [(rows, tensors(arrays)) for rows, arrays in batched(case, samples.inputs, TOGETHER)]
    order = np.argsort(np.concatenate([rows for rows, _ in batches]))

    def evaluate(model: Any) -> Any:
        with torch.no_grad():
            parts = [model(*arrays) for _, arrays in batches]
        return metric(torch.cat(parts).numpy()[order], labels)

    return evaluate


def save(model: mcomp.CompiledModel, folder: Path, case: str, name: str) -> str:
    """Save an artifact under a name; returns the name."""
    path = place(folder, case, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return name


def planned(
    goal: Goal, case: Case, options: argparse.Namespace, kept: Path, limit: float, name: str = PLAN
) -> tuple[list[str], dict[str, Any]]:
    """One search in at most `limit` seconds (0: without a limit, and without training); the names of what it kept (first)
    and of the rest of its front, and what is to be told of it: also, whether it went on from what a search before left, and
    how many times of layers the cost table had at its start."""
    import mcomp
    from mcomp.plan.costs import CostTable

    begin = time.perf_counter()
    objective = options.objective or goal.objective
    search = kept / "searches" / f"{case.name}-{limit:g}-{objective}-{len(case.selection or ())}"
    there, priced = identity_at(search), len(CostTable.load("cpu", options.threads).times)
    fast = mcomp.optimize(
        case.build(), tensors(case.example), calibration=calibration_of(case), evaluate=evaluator(case), max_drop=goal.drop,
        threads=options.threads, time_limit=limit or None, dynamic=case.dynamic, seed=options.seed, objective=objective,
        resume=search, students=goal.students(),
    )
    report = fast.report()
    names = [save(fast, kept, case.name, name)]
    if name == PLAN:
        for number, version in enumerate(v for v in fast.frontier if v.name != report.kept.name):
            names.append(save(fast.pick(version), kept, case.name, f"front {number} ({version.name})"))
    told = {
        "seconds": time.perf_counter() - begin, "time_limit": limit, "max_drop": goal.drop, "objective": objective,
        "pipeline": report.pipeline, "kept": report.kept.name, "within_budget": report.within_budget,
        "evaluations": report.evaluations, "notes": report.notes, "stages": [dataclasses.asdict(s) for s in report.stages],
        "resumed": there is not None and there == identity_at(search), "cost_table": priced,
        "operations": sum(r.flops for r in report.rows), "operations_before": sum(r.flops_before for r in report.rows),
    }
    return names, told


def identity_at(search: Path) -> str | None:
    """Of which model, data and options what a search left in a folder is; None where there is nothing that can be used."""
    try:
        return str(json.loads((search / "search.json").read_text(encoding="utf8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def single(
    name: str, pipeline: str, case: Case, batches: Sequence[tuple[Any, ...]], options: argparse.Namespace, kept: Path
) -> tuple[list[str], dict[str, Any]]:
    """One technique; its name, and what is to be told of it."""
    say(f"  {case.name}: {name}")
    begin = time.perf_counter()
    fast = singles.compressed(pipeline, case, batches, options)
    return [save(fast, kept, case.name, name)], singles.told_of(fast, pipeline, begin)


def tuned(
    name: str, technique: str, goal: Goal, case: Case, batches: Sequence[tuple[Any, ...]], options: argparse.Namespace,
    kept: Path,
) -> tuple[list[str], dict[str, Any]]:
    """One technique, as far as the budget allows; its name, and what is to be told of it."""
    fast, told = singles.tuned(name, technique, case, batches, options, goal.drop, evaluator(case))
    return [save(fast, kept, case.name, name)], told


@dataclass
class Made:
    """What a row has before anything is scored or timed: an entry for each artifact, with what is to be told of it, and why
    others failed. `keep` gets it after each step."""

    result: CaseResult
    kept: Path
    keep: Callable[[CaseResult], None]

    def attempt(self, name: str, make: Callable[[], tuple[list[str], dict[str, Any]]]) -> list[str]:
        """The names of the artifacts that `make` saves, the first of which it tells of; none where it fails."""
        try:
            names, told = make()
        except Exception as error:
            self.result.skipped[f"artifact {name}"] = reason_of(error)
            names, told = [], {}
        for made in names:
            size = place(self.kept, self.result.case, made).stat().st_size
            details, seconds = (told, told["seconds"]) if made == name else ({}, 0.0)
            self.result.entries.append(Entry("artifact", made, made, seconds, size, {}, [], details))
        self.keep(self.result)
        return names

    def joined(self, result: CaseResult) -> CaseResult:
        """What was scored and timed, with what is told of artifacts, and those whose turn has not come."""
        for entry in result.entries:
            entry.details = next((e.details for e in self.result.entries if e.name == entry.name), entry.details)
        known = {entry.name for entry in result.entries}
        waiting = [e for e in self.result.entries if e.name not in known and f"artifact {e.variant}" not in result.skipped]
        return dataclasses.replace(
            result, entries=[*result.entries, *waiting], skipped={**self.result.skipped, **result.skipped}
        )


def reason_of(error: Exception) -> str:
    """In one line why something was skipped; the traceback of what nobody foresaw goes to stderr."""
    if isinstance(error, models.Unavailable | WorkerFailed):
        say(f"  skipped: {error}")
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier", description=__doc__)
    parser.add_argument("--models", default=",".join(GOALS), help="comma-separated; default: all")
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="data folder")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds of a search; 0: none, without training; "
                        "default: each model's own")
    parser.add_argument("--only-trained", action="store_true", help="leave out the second search, without training")
    parser.add_argument("--with-trained-singles", action="store_true",
                        help="single techniques also trained, each as long as a search may take")
    parser.add_argument("--tuned-singles", action="store_true",
                        help="also single techniques with as much of each as the budget allows by the selection split")
    parser.add_argument("--singles", metavar="NAMES",
                        help="single techniques, separated by semicolons; default: all of a row")
    parser.add_argument("--peers", default="", help="comma-separated runtimes beside eager; default: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--objective", choices=["latency", "size", "balanced"], help="default: each model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds")
    parser.add_argument("--burst", type=float, default=0.3, metavar="S", help="seconds per turn")
    parser.add_argument("--kept", type=Path, default=Path("build/frontier"), metavar="DIR",
                        help="searches, teachers and artifacts; a search that was stopped goes on from there")
    parser.add_argument("--json", type=Path, metavar="OUT", help="result file; default benchmarks/results/frontier.json")
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")
    return parser


def run_goal(
    goal: Goal, options: argparse.Namespace, runners: Sequence[tuple[str, str]], keep: Callable[[CaseResult], None]
) -> None:
    """Search, save, score and time one row, beside runners of other peers. `keep` gets what there is after each step."""
    kept = options.kept.resolve()
    loading = models.Options(options.data.resolve(), kept=kept, any_length=True)
    case = models.load(goal.case, loading)
    limit = 60 * goal.minutes if options.time_limit is None else options.time_limit
    started = CaseResult(
        case.name, case.title, case.batch, case.unit, 0, commit=machine.revision(), date=machine.today()
    )
    made = Made(started, kept, keep)
    found = made.attempt(PLAN, lambda: planned(goal, case, options, kept, limit))
    if goal.untrained and limit and not options.only_trained:
        found += made.attempt(UNTRAINED, lambda: planned(goal, case, options, kept, 0.0, UNTRAINED))
    alone, batches = [], calibration_of(case)
    techniques = {**goal.singles, **(goal.trained(limit) if options.with_trained_singles and limit else {})}
    if options.singles is not None:
        techniques = {name: pipeline for name, pipeline in techniques.items() if name in options.singles.split(";")}
    for name, pipeline in {"int8": INT8_PIPELINE, **{n: f"{p},{INT8_PIPELINE}" for n, p in techniques.items()}}.items():
        alone += made.attempt(name, partial(single, name, pipeline, case, batches, options, kept))
    for name, technique in goal.tuned.items() if options.tuned_singles else ():
        alone += made.attempt(name, partial(tuned, name, technique, goal, case, batches, options, kept))
    wanted = (*runners, *(("artifact", name) for name in (*alone, *found)))
    plan = Plan(wanted, loading, options.threads, options.rounds, options.burst, False)
    with tempfile.TemporaryDirectory() as scratch:
        result = run_case(plan, case, Path(scratch), True, lambda result: keep(made.joined(result)))
    for name, score in case.beside.items() if result.entries else ():
        try:
            result.entries[0].also[name] = score()
        except Exception as error:
            result.skipped[name] = reason_of(error)
    keep(made.joined(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0 when every asked model took part, 1 otherwise."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    names = _names(options.models, list(GOALS), "models")
    wanted = _names(options.peers, [p for p in peers.OTHERS if p != "eager"], "peers")
    known = {name for goal in GOALS.values() for name in (*goal.singles, *goal.trained(1.0))}
    unknown = set((options.singles or "").split(";")) - known - {""}
    if unknown:
        raise SystemExit(f"--singles {sorted(unknown)[0]}: there is no such technique; there are {'; '.join(sorted(known))}")
    if not options.data.is_dir():
        raise SystemExit(f"--data {options.data}: no such folder")
    output = options.json or Path("benchmarks/results/frontier.json")
    command = machine.command_of("frontier", words)
    results = Results(command, machine.describe(options.threads), options.rounds, options.burst, False)
    older = Results.read_if_there(output)
    runners = _runners(wanted, (), results.skipped)

    def keep(result: CaseResult) -> None:
        results.put(result)
        results.joined(older).save(output)

    for name in names:
        say(f"{name}:")
        try:
            run_goal(GOALS[name], options, runners, keep)
        except Exception as error:
            results.skipped[name] = reason_of(error)
        results.joined(older).save(output)
    from benchmarks.picture import draw, table

    print(table(results))
    if not options.no_picture:
        draw(results.joined(older), output.with_suffix(".png"))
    say(f"written: {output}")
    return 1 if results.skipped or any(case.skipped for case in results.cases) else 0


if __name__ == "__main__":
    raise SystemExit(main())
