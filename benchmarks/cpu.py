"""``python -m benchmarks.cpu``: mcomp beside other CPU runtimes: time, quality, size and preparation, in one run.

Every runner lives in a process of its own. The artifact that is scored is the one that is timed; times are taken in
interleaved rounds, one process active at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import machine, metrics, models, peers, timing
from benchmarks.case import Array, Case
from benchmarks.remote import Remote, WorkerFailed
from benchmarks.results import CaseResult, Entry, Results
from benchmarks.table import case_sheet, markdown
from benchmarks.worker import SETTLE_S, Job, Turn, as_json


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run: `runners` are (peer, variant) pairs, eager first."""

    runners: tuple[tuple[str, str], ...]
    options: models.Options
    threads: int
    rounds: int
    burst_s: float
    quick: bool


def say(text: str) -> None:
    """Progress goes to stderr: stdout holds the tables only."""
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--models", default=",".join(models.CASES), help="comma-separated; default: all")
    parser.add_argument("--peers", default=",".join(peers.OTHERS), help="comma-separated")
    parser.add_argument("--ours", default="fp32,int8", help="mcomp variants: fp32, int8, budget; '' for none")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder; models that need it are skipped without")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="batch size; default: each model's own (1; the MLPs 64 and 32)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens per sentence")
    parser.add_argument("--rounds", type=int, help="interleaved rounds; default 15 (quick: 5)")
    parser.add_argument("--burst", type=float, metavar="S", help="seconds per turn; default 0.3 (quick: 0.1)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="result file, in which models of other runs stay; default "
                        "benchmarks/results/cpu.json (quick: none)")
    parser.add_argument("--against", metavar="NAME", help="also show speed relative to this runner ('openvino int8')")
    parser.add_argument("--no-quality", action="store_true", help="time only: no test scores")
    parser.add_argument("--quick", action="store_true", help="few rounds, one setting per runner, 200 test samples")
    return parser


def _names(text: str, known: Sequence[str], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"unknown {what}: {', '.join(unknown)}; known: {', '.join(known)}")
    return names


def _runners(wanted: Sequence[str], ours: Sequence[str], skipped: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Pairs of peer and variant that can run here, eager first; reasons for the others go to `skipped`."""
    found: list[tuple[str, str]] = []
    for name in dict.fromkeys(["eager", *wanted, *(["mcomp"] if ours else [])]):
        peer = peers.module(name)
        reason = peer.missing()
        if reason is not None:
            skipped[name] = reason
            continue
        found += [(name, variant) for variant in (ours if name == "mcomp" else peer.VARIANTS)]
    return tuple(found)


def _enter(plan: Plan, case: str, peer: str, variant: str, scratch: Path) -> Remote:
    folder = scratch / f"{case}-{peer}-{variant}"
    return Remote(Job(case, peer, variant, plan.options, plan.threads, folder, plan.quick))


def _prepare(remote: Remote, plan: Plan, peer: str, variant: str, eager: Entry | None, quality: bool) -> Entry:
    """Prepare and score one runner."""
    reference = None if eager is None or variant == "fp32" else eager.selection_quality
    prepared = remote("prepare", reference, plan.burst_s)
    entry = Entry(peer=peer, variant=variant, **as_json(prepared))
    if eager is None and quality:
        entry.selection_quality = remote("score", "selection")
    if quality:
        entry.quality = remote("score", "test")
        entry.also = remote("also")
    return entry


def run_case(
    plan: Plan, case: Case, scratch: Path, quality: bool, keep: Callable[[CaseResult], None] = lambda result: None
) -> CaseResult:
    """Prepare, score and time all runners of one case. `keep` gets what there is after each of them and each round.

    Raises WorkerFailed when eager itself cannot be prepared: there is nothing to compare with then.
    """
    result = CaseResult(
        case.name, case.title, case.batch, case.unit, 0, commit=machine.revision(), date=machine.today()
    )
    result.test_samples = case.test.judged if quality and case.test is not None else 0
    with contextlib.ExitStack() as stack:
        alive: dict[str, Remote] = {}
        reference: Array | None = None
        for peer, variant in plan.runners:
            say(f"  {case.name}: preparing {peer} {variant}")
            started = time.perf_counter()
            remote = stack.enter_context(_enter(plan, case.name, peer, variant, scratch))
            eager = result.entry("eager")
            try:
                entry = _prepare(remote, plan, peer, variant, eager, quality)
                outputs = remote("outputs")
            except WorkerFailed as error:
                if eager is None:
                    raise
                result.skipped[f"{peer} {variant}"] = str(error)
                remote.close()
                say(f"    failed: {error}")
                keep(result)
                continue
            reference = outputs if reference is None else reference
            entry.relative_error = None if eager is None else metrics.relative_l2(outputs, reference)
            result.entries.append(entry)
            alive[entry.name] = remote
            keep(result)
            shown = "" if entry.quality is None else f", {entry.quality:.2f}"
            say(f"    {entry.chosen}{shown} ({time.perf_counter() - started:.0f} s)")
        _time(plan, result, alive, keep)
    return result


def _time(plan: Plan, result: CaseResult, alive: dict[str, Remote], keep: Callable[[CaseResult], None]) -> None:

    def turn(entry: Entry) -> float:
        answer: Turn = alive[entry.name]("turn", plan.burst_s)
        entry.calls += answer.burst.calls
        entry.idle_cores = max(entry.idle_cores, answer.idle_cores)
        return answer.burst.milliseconds

    say(f"  {result.case}: {plan.rounds} rounds")
    take_rounds(result, {entry.name: partial(turn, entry) for entry in result.entries}, plan.rounds, keep)


def take_rounds(
    result: CaseResult, turns: Mapping[str, Callable[[], float]], rounds: int,
    keep: Callable[[CaseResult], None] = lambda result: None,
) -> None:
    """Take interleaved rounds and store them in the entries, by whose names the turns go. A runner whose worker fails leaves
    the entries, and its reason is in `skipped`."""

    def turn(entry: Entry) -> float:
        if entry not in result.entries:
            return float("nan")
        try:
            return turns[entry.name]()
        except WorkerFailed as error:
            say(f"    {entry.name} failed: {error}")
            result.skipped[f"{entry.peer} {entry.variant}"] = str(error)
            result.entries = [other for other in result.entries if other is not entry]
            return float("nan")

    def after(times: Mapping[str, Sequence[float]]) -> None:
        for entry in result.entries:
            entry.rounds_ms = list(times[entry.name])
        keep(result)

    timing.interleave(
        {entry.name: partial(turn, entry) for entry in result.entries}, rounds, lambda: time.sleep(SETTLE_S), after
    )


def _show(results: Results, against: str | None) -> None:
    """Tables for a terminal, or markdown for a file or a pipe."""
    if not sys.stdout.isatty():
        print(markdown(results, against))
        return
    from rich.console import Console

    from benchmarks.table import notes, overview

    console = Console()
    for case in results.cases:
        console.print(case_sheet(case, against).rich())
    if len(results.cases) > 1:
        console.print(overview(results).rich())
    for line in notes(results):
        console.print(line, markup=False, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0 when every asked model and runner took part, 1 otherwise."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _parser().parse_args(words)
    names = _names(chosen.models, list(models.CASES), "models")
    wanted = _names(chosen.peers, list(peers.PEERS), "peers")
    ours = _names(chosen.ours, peers.module("mcomp").VARIANTS, "mcomp variants")
    folder = None if chosen.data is None else chosen.data.resolve()
    if folder is not None and not folder.is_dir():
        raise SystemExit(f"--data {chosen.data}: no such folder")
    rounds = chosen.rounds or (5 if chosen.quick else 15)
    burst = chosen.burst or (0.1 if chosen.quick else 0.3)
    options = models.Options(folder, chosen.batch, chosen.tokens, 200 if chosen.quick else None)
    results = Results(machine.command_of("cpu", words), machine.describe(chosen.threads), rounds, burst, chosen.quick)
    runners = _runners(wanted, ours, results.skipped)
    plan = Plan(runners, options, chosen.threads, rounds, burst, chosen.quick)
    output = chosen.json or (None if chosen.quick else Path("benchmarks/results/cpu.json"))
    older = Results.read_if_there(output)

    def write() -> None:
        if output is not None:
            results.joined(older).save(output)

    def keep(result: CaseResult) -> None:
        results.put(result)
        write()

    for name in names:
        say(f"{name}:")
        try:
            with tempfile.TemporaryDirectory() as scratch:
                case = models.load(name, options)
                run_case(plan, case, Path(scratch), not chosen.no_quality, keep)
        except (models.Unavailable, WorkerFailed) as error:
            say(f"  skipped: {error}")
            results.skipped[name] = str(error)
        write()
    _show(results, chosen.against)
    say("nothing was written: give --json OUT" if output is None else f"written: {output}")
    return 1 if results.skipped or any(case.skipped for case in results.cases) else 0


if __name__ == "__main__":
    raise SystemExit(main())
