"""Timing the original and versions of it in turns, on the example arguments, without leaving a trace in any of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.backend import backend_named
from mcomp.plan.measure import Timing, interleave

if TYPE_CHECKING:
    from mcomp.plan.work import Call, Version, Workshop


def race(workshop: Workshop, versions: Sequence[Version], *, original: bool, budget: float) -> Timing:
    """Time the versions in turns; with `original` the model itself too, as the first runner.

    Versions get the arguments on the device that they compute on, the model gets them as they were given. Where the model
    keeps state or writes to its arguments, every run gets fresh copies of both, made outside of the clock.
    """
    import torch

    runners = [_eager(workshop)] if original else []
    runners += [_runner(workshop, v) for v in versions]
    eager = {0} if original else set()
    home = _home(workshop)
    if home != "cpu":
        runners = [_waiting(r, home) for r in runners]
    with torch.inference_mode(not _writes(workshop)), torch.no_grad():
        if not _writes(workshop):
            here, there = workshop.example, _moved(workshop, home)
            calls = [_bound(r, *(here if i in eager else there)) for i, r in enumerate(runners)]
            timing = interleave(calls, budget=budget, spinning=eager)
        else:
            timing = _with_copies(workshop, versions, runners, budget, eager, home)
    return timing


def _with_copies(
    workshop: Workshop, versions: Sequence[Version], runners: Sequence[Callable[..., object]], budget: float,
    eager: Collection[int], home: str,
) -> Timing:
    buffers = [*workshop.model.buffers(), *(workshop.captured.fallback.buffers() if workshop.captured.fallback else ())]
    before = [b.clone() for b in buffers]

    def prepare() -> Any:
        for buffer, value in zip(buffers, before):
            if buffer.shape == value.shape:
                buffer.copy_(value)
        _reset(versions)
        here = copy.deepcopy(workshop.example)
        return here, here if home == "cpu" else _moved(workshop, home)

    calls = [lambda given, r=r, i=int(i not in eager): r(*given[i][0], **given[i][1]) for i, r in enumerate(runners)]
    try:
        return interleave(calls, budget=budget, prepare=prepare, spinning=eager)
    finally:
        prepare()


def _reset(versions: Sequence[Version]) -> None:
    for version in versions:
        for program in version.built.programs().values():
            program.reset_state()


def _writes(workshop: Workshop) -> bool:
    """Whether a run may change the model or its arguments."""
    return workshop.captured.program is None or any(not w.program_is_plain for w in workshop.works)


def _home(workshop: Workshop) -> str:
    """The torch device that versions compute on. What of a model captured in parts stays eager is where the user has it, and
    so are the arguments then."""
    return "cpu" if workshop.captured.program is None else backend_named(workshop.settings.target).home()


def _moved(workshop: Workshop, home: str) -> Call:
    """The example with copies of its tensors on a device; itself for main memory."""
    if home == "cpu":
        return workshop.example
    leaves = workshop.example_leaves(workshop.works[0])
    return copy.deepcopy(workshop.example, {id(x): x.to(home, copy=True) for x in leaves if hasattr(x, "to")})


def _waiting(run: Callable[..., object], home: str) -> Callable[..., object]:
    """A call that ends when its results are there."""
    import torch

    wait = torch.get_device_module(home).synchronize

    def waited(*args: Any, **kwargs: Any) -> object:
        found = run(*args, **kwargs)
        wait()
        return found

    return waited


def _bound(run: Callable[..., object], args: Sequence[Any], kwargs: dict[str, Any]) -> Callable[[], object]:
    return lambda: run(*args, **kwargs)


def _eager(workshop: Workshop) -> Callable[..., object]:
    return workshop.model  # type: ignore[no-any-return]


def _runner(workshop: Workshop, version: Version) -> Callable[..., object]:
    """What runs a version. Those of a model in parts share its eager module, into which a version's parts go when its turn
    comes."""
    program = version.built.program
    if program is not None:
        return lambda *args, **kwargs: program.call(args, kwargs)
    compiled = workshop.compiled(version)

    def run(*args: Any, **kwargs: Any) -> object:
        workshop.install(version)
        return compiled(*args, **kwargs)

    return run
