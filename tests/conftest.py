"""Options and collectors of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Without a GPU the kernels of target cuda run in Triton's interpreter. Triton looks at this when it is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write what golden tests find as what they expect")
    parser.addoption("--whole-manifest", action="store_true", help="compile every entry of the Triton backend's manifest")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # several workers share the cores
        import torch

        torch.set_num_threads(1)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".mir":
        return None
    from tests.golden import MirFile

    return MirFile.from_parent(parent, path=file_path)
