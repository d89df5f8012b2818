"""Options and collectors of the whole suite."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

# Without a GPU the kernels of target cuda run in Triton's interpreter. Triton looks at this when it is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")

_BUILDS = "MCOMP_TEST_BUILDS"
"""The variable that tells workers where what is compiled for tests lies, so that each driver is compiled once."""
_LONG = ("triton/test_manifest.py", "triton/test_models.py", "commands/test_demo.py", "api/test_planner.py")
"""Files of few tests that take long: workers begin with them, so that none is left alone with one at the end."""


_COMPILED_AS_SHIPPED = {"cpu", "ops", "test_cpu.py"}
"""Folders and files of tests of generated code: it is compiled as users have it. Other tests are about something else."""


@pytest.fixture(autouse=True)
def _compiled_with_less_effort(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not what is tested, generated code is optimized less, which takes g++ a third less time."""
    if _COMPILED_AS_SHIPPED.isdisjoint(request.path.relative_to(Path(__file__).parent).parts):
        from mcomp.backends.cpu import compiler

        monkeypatch.setattr(compiler, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in compiler.FLAGS))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write what golden tests find as what they expect")
    parser.addoption("--whole-manifest", action="store_true", help="compile every entry of the Triton backend's manifest")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # several workers share the cores
        import torch

        torch.set_num_threads(1)
    else:
        os.environ[_BUILDS] = tempfile.mkdtemp(prefix="mcomp-kernels-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(_BUILDS, ""), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then those with many tests: workers take files in this order (see addopts)."""
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (not item.path.as_posix().endswith(_LONG), -counts[item.path]))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".mir":
        return None
    from tests.golden import MirFile

    return MirFile.from_parent(parent, path=file_path)
