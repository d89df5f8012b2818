"""Saved models that the tests of the command line share. They run on the reference target: nothing is compiled."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcomp.cli import main
from tests.runtime.build import MLP, model

SOURCE = textwrap.dedent("""
    import torch
    from torch import nn

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()

    def pair():
        return model(), (torch.ones(2, 8),)

    def everything():
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
        return {"model": model(), "args": (x,), "calibration": [(x,)], "evaluate": lambda m: float(m(x).shape[0])}

    def chosen():
        return {**everything(), "dynamic": False, "layers": {"0": {"quantize": False}}, "seed": 3}

    def strange():
        return {**everything(), "students": {"3": nn.Linear(8, 4)}}

    def unlucky():
        return {**everything(), "seed": -1}

    def bare():
        return model()

    def misspelt():
        return {"model": model(), "arguments": ()}
""")


@dataclass
class Ran:
    """What a command did: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Mcomp = Callable[..., Ran]


@pytest.fixture
def mcomp(capsys: pytest.CaptureFixture[str]) -> Mcomp:
    """Runs a command in this process."""

    def run(*argv: object) -> Ran:
        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as e:
            code = int(e.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`model.mcomp`, `graph.mir` (with made-up weights) and `source.py`."""
    place = tmp_path_factory.mktemp("commands")
    model().save(place / "model.mcomp")
    (place / "graph.mir").write_text(MLP)
    (place / "source.py").write_text(SOURCE)
    (place / "broken.mir").write_text("graph @g(%x f32[3]) {\n}\n")
    yield place
