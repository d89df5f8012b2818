"""`mcomp optimize` where something goes wrong: what is kept of the search, what is told, and the exit code."""

import json
from pathlib import Path

from tests.commands.conftest import Mcomp

EAGER = """
import torch
from torch import nn

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        h = self.first(x)
        for _ in range(int(h.sum().item()) % 3):
            h = h + 1
        return self.second(h)

def task():
    return Branches().eval(), (torch.ones(2, 8),)
"""


def test_a_model_that_cannot_be_saved_is_told_early_and_leaves_report_and_dump(mcomp: Mcomp, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(EAGER)
    ran = mcomp("optimize", f"{source}:task", "-o", tmp_path / "m.mcomp", "--target", "reference", "--json",
                "--dump", tmp_path / "dump")
    assert ran.code == 3
    assert json.loads(ran.out)["eager_modules"]
    assert (tmp_path / "dump" / "report.txt").exists() and (tmp_path / "dump" / "first.mir").exists()
    told = ran.err.index("parts of the model stay eager, so that it cannot be saved: the whole model: ")
    assert told < ran.err.index("MC0707")


def test_a_dump_that_fails_does_not_keep_the_model_from_being_saved(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = mcomp("optimize", f"{folder / 'source.py'}:pair", "-o", tmp_path / "m.mcomp", "--target", "reference",
                "--dump", tmp_path / "file")
    assert ran.code == 3 and "could not be written" in ran.err
    assert "lossless" in ran.out
    assert (tmp_path / "m.mcomp").exists()


def test_a_budget_that_could_not_be_judged_is_not_met(mcomp: Mcomp, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("""
import torch

seen = []

def metric(model):
    seen.append(model)
    return 1.0 / (len(seen) == 1)

def task():
    x = torch.ones(2, 4)
    return {"model": torch.nn.Linear(4, 2).eval(), "args": (x,), "calibration": [(x,)], "evaluate": metric}
""")
    ran = mcomp("optimize", f"{source}:task", "-o", tmp_path / "m.mcomp", "--target", "reference",
                "--pipeline", "quantize{bits=8}", "--max-drop", "0.5")
    assert "budget: evaluate drops at most 0.5: not judged" in ran.out
    assert ran.code == 1
    assert (tmp_path / "m.mcomp").exists()
