"""mcomp: lossless, int8 by pipeline, and int8 under a budget measured on the selection split."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Array, tensors
from benchmarks.peers.base import Candidate, Setup, package_versions, torch_example, torch_module

VARIANTS = ("fp32", "int8", "budget")
INT8_PIPELINE = "quantize{bits=8}"
CALIBRATION_SAMPLES = 300
MAX_DROP = 0.3


def missing() -> str | None:
    try:
        module = importlib.import_module("mcomp")
    except ImportError as error:
        return f"cannot be imported ({error})"
    try:
        module.optimize  # noqa: B018
    except (ImportError, AttributeError) as error:
        return f"no optimize ({error})"
    return None


def versions() -> dict[str, str]:
    found = package_versions(["torch"])
    version = getattr(importlib.import_module("mcomp"), "__version__", None)
    return found if version is None else {**found, "mcomp": str(version)}


class OurRunner:
    """A compiled model; its size is that of the saved artifact."""

    def __init__(self, model: Any, path: Path) -> None:
        model.save(path)
        self.model = model
        self.size_bytes: int | None = path.stat().st_size
        report = model.report()
        self.details: Mapping[str, Any] = {
            "eager_modules": len(report.eager_modules),
            "opaque_nodes": sum(report.opaque_nodes.values()),
            "native_nodes": float(report.native_nodes),
            "native_flops": float(report.native_flops),
        }

    def __call__(self, *inputs: Array) -> Array:
        return np.array(self.model(*inputs))

    def bind(self, *inputs: Array) -> Callable[[], object]:
        return self.model.bind(*inputs)

    at = bind

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def _lossless(setup: Setup) -> OurRunner:
    import mcomp

    model = mcomp.optimize(
        torch_module(setup), torch_example(setup), dynamic=setup.case.dynamic, threads=setup.threads, progress=False
    )
    return OurRunner(model, setup.folder() / "lossless.mcomp")


def _calibration(setup: Setup) -> list[tuple[Any, ...]]:
    case = setup.case
    count = -(-CALIBRATION_SAMPLES // case.batch)
    return [tensors(batch) for batch in islice(case.calibration.batches(case.batch), count)]


def _int8(setup: Setup) -> OurRunner:
    import mcomp

    model = mcomp.optimize(
        torch_module(setup),
        torch_example(setup),
        calibration=_calibration(setup),
        pipeline=INT8_PIPELINE,
        dynamic=setup.case.dynamic,
        threads=setup.threads,
        progress=False,
    )
    return OurRunner(model, setup.folder() / "int8.mcomp")


def _budget(setup: Setup) -> OurRunner:
    import mcomp

    case = setup.case

    def evaluate(model: Any) -> float:
        score = case.score(lambda *batch: model(*tensors(batch)).detach().numpy(), case.selection)
        if score is None:
            raise ValueError(f"{case.name} has no labelled selection data")
        return score

    model = mcomp.optimize(
        torch_module(setup),
        torch_example(setup),
        calibration=_calibration(setup),
        evaluate=evaluate,
        max_drop=MAX_DROP,
        threads=setup.threads,
        progress=False,
    )
    return OurRunner(model, setup.folder() / "budget.mcomp")


def candidates(variant: str, setup: Setup) -> list[Candidate]:
    if variant == "fp32":
        return [Candidate("lossless", partial(_lossless, setup))]
    if variant == "int8":
        return [Candidate(INT8_PIPELINE, partial(_int8, setup), {"pipeline": INT8_PIPELINE})]
    if setup.case.selection is None:
        return []
    return [Candidate(f"max_drop={MAX_DROP}", partial(_budget, setup), {"max_drop": MAX_DROP})]
