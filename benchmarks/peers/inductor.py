"""torch.compile with Inductor: default, with frozen weights, with its GEMM templates autotuned, with a wrapper in C++, and
for images with channels last."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.peers.base import Candidate, Setup, missing_packages, package_versions, torch_module
from benchmarks.peers.eager import TorchRunner

VARIANTS = ("fp32",)

SETTINGS: dict[str, dict[str, Any]] = {
    "freezing": {"freezing": True},
    "default": {},
    "freezing, max-autotune": {"freezing": True, "max_autotune": True},
    "freezing, C++ wrapper": {"freezing": True, "cpp_wrapper": True},
}
IMAGES = ("freezing", "freezing, C++ wrapper")
"""Settings that models of images are also tried with in channels-last layout."""


def missing() -> str | None:
    return missing_packages(["torch"])


def versions() -> dict[str, str]:
    return package_versions(["torch"])


def _compiled(setup: Setup, options: dict[str, Any], channels_last: bool) -> TorchRunner:
    import torch

    module = torch_module(setup)
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    function = torch.compile(module, dynamic=False, fullgraph=True, options=options)
    runner = TorchRunner(function, None, channels_last)
    with runner.context():
        runner.bind(*setup.case.example)()
    return runner


def candidates(variant: str, setup: Setup) -> list[Candidate]:
    chosen = [(name, options, False) for name, options in SETTINGS.items()]
    if any(array.ndim == 4 for array in setup.case.example):
        chosen += [(f"{name}, channels last", SETTINGS[name], True) for name in IMAGES]
    return [
        Candidate(name, partial(_compiled, setup, options, channels_last), options)
        for name, options, channels_last in chosen[: 1 if setup.quick else None]
    ]
