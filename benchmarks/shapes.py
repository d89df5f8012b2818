"""``python -m benchmarks.shapes``: one int8 artifact of ours at many batch sizes and sentence lengths, beside OpenVINO's
int8 model compiled anew for each of them, and eager torch.

mcomp compiles once, with the batch (and for sentences the length) symbolic, and was shown inputs of the first size only.
OpenVINO's best setting at the first size gets a model reshaped to each size, its fastest way; where its quantized model
cannot be reshaped, it is converted and quantized anew at that size. Times are taken in interleaved rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import machine, models, peers
from benchmarks.cpu import _names, say, take_rounds
from benchmarks.remote import Remote, WorkerFailed
from benchmarks.results import CaseResult, Entry, Results
from benchmarks.table import markdown
from benchmarks.worker import Job, as_json

RUNNERS = (("eager", "fp32"), ("openvino", "int8"), ("mcomp", "int8"))
BATCHES = (1, 8, 32)
TOKENS = (16, 64, 128, 256)


def sizes_of(name: str, base: models.Options) -> list[models.Options]:
    """The sizes at which a case is timed, its own first."""
    own = [base, *(dataclasses.replace(base, batch=batch) for batch in BATCHES)]
    if name == "minilm":
        own += [dataclasses.replace(base, tokens=tokens) for tokens in TOKENS if tokens != base.tokens]
    elif name.startswith("mlp"):
        own += [dataclasses.replace(base, batch=batch) for batch in (64, 256)]
    seen: dict[tuple[int, int], models.Options] = {}
    for options in own:
        case = models.load(name, options)
        seen.setdefault((case.batch, options.tokens), options)
    return list(seen.values())


def run_model(
    name: str, base: models.Options, threads: int, rounds: int, burst: float, scratch: Path,
    keep: Callable[..., None] = lambda *results: None,
) -> list[CaseResult]:
    """All sizes of one model. `keep` gets what there is of them after each runner and each round.

    Raises Unavailable without its data, WorkerFailed when no runner could be prepared.
    """
    sizes = sizes_of(name, base)
    cases = [models.load(name, options) for options in sizes]
    results = [
        CaseResult(name, case.title, case.batch, case.unit, 0, commit=machine.revision(), date=machine.today())
        for case in cases
    ]
    with contextlib.ExitStack() as stack:
        alive: dict[str, Remote] = {}
        reference: float | None = None
        for peer, variant in RUNNERS:
            reason = peers.module(peer).missing()
            if reason is not None:
                results[0].skipped[f"{peer} {variant}"] = reason
                continue
            say(f"  {name}: preparing {peer} {variant}")
            job = Job(name, peer, variant, base, threads, scratch / f"{name}-{peer}-{variant}", quick=False)
            remote = stack.enter_context(Remote(job))
            try:
                prepared = as_json(remote("prepare", None if variant == "fp32" else reference, burst))
                if peer == "eager":
                    reference = remote("score", "selection")
            except WorkerFailed as error:
                say(f"    failed: {error}")
                results[0].skipped[f"{peer} {variant}"] = str(error)
                remote.close()
                continue
            for result in results:
                result.entries.append(Entry(peer=peer, variant=variant, **prepared))
                prepared = {**prepared, "tried": []}
            alive[results[0].entries[-1].name] = remote
            keep(*results)
        if not alive:
            raise WorkerFailed("; ".join(f"{what}: {why}" for what, why in results[0].skipped.items()))
        for number, (result, options) in enumerate(zip(results, sizes, strict=True)):
            say(f"  {result.title}, batch {result.batch}")
            job = Job(name, "", "", options, threads, scratch / f"{name}-{number}", quick=False)
            _time(result, job, alive, rounds, burst, lambda _: keep(*results))
    return results


def _time(
    result: CaseResult, job: Job, alive: dict[str, Remote], rounds: int, burst: float, keep: Callable[[CaseResult], None]
) -> None:
    """Times of all runners at one size, `job.options`. A peer that cannot take the size is prepared for it alone; ours
    is not."""
    with contextlib.ExitStack() as stack:
        turns = {}
        for entry in list(result.entries):
            remote = alive[entry.name]
            try:
                try:
                    remote("turn_at", job.options, 0.0)
                except WorkerFailed:
                    if entry.peer == "mcomp":
                        raise
                    say(f"    preparing {entry.name} anew at this size")
                    own = dataclasses.replace(
                        job, peer=entry.peer, variant=entry.variant, scratch=Path(f"{job.scratch}-{entry.peer}"),
                        setting=entry.chosen,
                    )
                    remote = stack.enter_context(Remote(own))
                    at = result.entries.index(entry)
                    entry = Entry(peer=entry.peer, variant=entry.variant, **as_json(remote("prepare", None, burst)))
                    result.entries[at] = entry
                    remote("turn_at", job.options, 0.0)
            except WorkerFailed as error:
                result.skipped[f"{entry.peer} {entry.variant}"] = str(error)
                result.entries = [e for e in result.entries if e.name != entry.name]
                continue
            turns[entry.name] = partial(remote, "turn_at", job.options, burst)
        take_rounds(result, turns, rounds, keep)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0 when every model and runner took part, 1 otherwise."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description=__doc__)
    parser.add_argument("--models", default=",".join(models.CASES), help="comma-separated; default: all")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder; models that need it are skipped without")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--burst", type=float, metavar="S", default=0.2, help="seconds per turn")
    parser.add_argument("--json", type=Path, metavar="OUT", default=Path("benchmarks/results/shapes.json"),
                        help="result file, in which models of other runs stay")
    chosen = parser.parse_args(words)
    names = _names(chosen.models, list(models.CASES), "models")
    folder = None if chosen.data is None else chosen.data.resolve()
    base = models.Options(folder, None, 128, 200, any_length=True)
    command = machine.command_of("shapes", words)
    results = Results(command, machine.describe(chosen.threads), chosen.rounds, chosen.burst, quick=False)

    older = Results.read_if_there(chosen.json)

    def keep(*cases: CaseResult) -> None:
        results.put(*cases)
        results.joined(older).save(chosen.json)

    for name in names:
        say(f"{name}:")
        try:
            with tempfile.TemporaryDirectory() as scratch:
                run_model(name, base, chosen.threads, chosen.rounds, chosen.burst, Path(scratch), keep)
        except (models.Unavailable, WorkerFailed) as error:
            say(f"  skipped: {error}")
            results.skipped[name] = str(error)
        results.joined(older).save(chosen.json)
    print(markdown(results, "openvino int8"))
    return 1 if results.skipped or any(case.skipped for case in results.cases) else 0


if __name__ == "__main__":
    raise SystemExit(main())
