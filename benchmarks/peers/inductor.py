"""torch.compile with Inductor: default, with frozen weights, and with its GEMM templates autotuned."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.base import Candidate, Setup, missing_packages, package_versions, torch_example, torch_module
from benchmarks.peers.eager import TorchRunner

VARIANTS = ("fp32",)

SETTINGS: dict[str, dict[str, Any]] = {
    "freezing": {"freezing": True},
    "default": {},
    "freezing, max-autotune": {"freezing": True, "max_autotune": True},
}


def missing() -> str | None:
    return missing_packages(["torch"])


def versions() -> dict[str, str]:
    return package_versions(["torch"])


def _compiled(setup: Setup, options: dict[str, Any]) -> TorchRunner:
    import torch

    module = torch_module(setup)
    function = torch.compile(module, dynamic=False, fullgraph=True, options=options)
    example = torch_example(setup)
    with torch.inference_mode():
        function(*example)
    return TorchRunner(function, None)


def candidates(variant: str, setup: Setup) -> list[Candidate]:
    chosen = list(SETTINGS.items())[: 1 if setup.quick else None]
    return [
        Candidate(name, lambda options=dict(options): _compiled(setup, options), options)  # type: ignore[misc]
        for name, options in chosen
    ]
