"""What commands run on: arrays from files, by name or in order, and made-up ones of sizes that are told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcomp.commands.arrays import tensors_for
from mcomp.ir import parse_graph
from tests.commands.conftest import Mcomp
from tests.runtime.build import model

DIFFERENCE = """graph @difference[B in 1..](%a: f32[B], %b: f32[B]) -> (f32[B]) {
  %y = sub %a, %b : f32[B]
  return %y
}
"""
THREE, ONE = np.full(2, 3, np.float32), np.full(2, 1, np.float32)


@pytest.fixture
def difference(tmp_path: Path) -> Path:
    """A model of two inputs, `a` and `b`."""
    return model(DIFFERENCE).save(tmp_path / "difference.mcomp")


def test_arrays_with_the_names_of_inputs_go_there(mcomp: Mcomp, difference: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", b=ONE, a=THREE)
    np.savez(tmp_path / "b.npz", b=ONE)
    np.savez(tmp_path / "a.npz", a=THREE)
    for files in (["both.npz"], ["b.npz", "a.npz"]):
        ran = mcomp("run", difference, *[a for f in files for a in ("--input", tmp_path / f)])
        assert "mean 2.0" in ran.out
    a, b = tensors_for(parse_graph(DIFFERENCE), [str(tmp_path / "both.npz")], {})
    assert (a.tolist(), b.tolist()) == ([3, 3], [1, 1])


def test_other_arrays_go_in_order(mcomp: Mcomp, difference: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "numbered.npz", THREE, ONE)
    np.savez(tmp_path / "other.npz", b=THREE, c=ONE)
    np.savez(tmp_path / "b.npz", b=THREE)
    np.save(tmp_path / "one.npy", ONE)
    for files in (["numbered.npz"], ["other.npz"], ["b.npz", "one.npy"]):
        ran = mcomp("run", difference, *[a for f in files for a in ("--input", tmp_path / f)])
        assert "mean 2.0" in ran.out, files


def test_names_that_come_twice_or_not_at_all(mcomp: Mcomp, difference: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", b=ONE)
    np.savez(tmp_path / "both.npz", b=ONE, a=THREE)
    ran = mcomp("run", difference, "--input", tmp_path / "b.npz")
    assert ran.code == 3 and "b.npz holds no array for the input a" in ran.err
    ran = mcomp("run", difference, "--input", tmp_path / "both.npz", "--input", tmp_path / "b.npz")
    assert ran.code == 3 and "b.npz holds a second array for the input b" in ran.err


COMMANDS = [
    ("run", "FILE"), ("bench", "FILE", "--seconds", "0.05"), ("compare", "FILE", "FILE"),
    ("opt", "FILE", "--pipeline", "dce"), ("bisect", "FILE", "--pipeline", "dce"),
]


@pytest.mark.parametrize("argv", COMMANDS)
def test_a_file_without_arrays_is_an_error(mcomp: Mcomp, difference: Path, tmp_path: Path, argv: tuple[str, ...]) -> None:
    np.savez(tmp_path / "empty.npz")
    ran = mcomp(*[difference if a == "FILE" else a for a in argv], "--input", tmp_path / "empty.npz")
    assert (ran.code, ran.out) == (3, "")
    assert "empty.npz holds no arrays" in ran.err


@pytest.mark.parametrize("argv", COMMANDS)
def test_sizes_are_of_made_up_inputs(mcomp: Mcomp, difference: Path, tmp_path: Path, argv: tuple[str, ...]) -> None:
    np.savez(tmp_path / "both.npz", b=ONE, a=THREE)
    ran = mcomp(*[difference if a == "FILE" else a for a in argv], "--input", tmp_path / "both.npz", "--size", "B=7")
    assert (ran.code, ran.out) == (3, "")
    assert "--size is for made-up inputs" in ran.err


def test_kernels_are_not_timed_for_so_many_seconds(mcomp: Mcomp, difference: Path) -> None:
    ran = mcomp("bench", difference, "--kernels", "--seconds", "1")
    assert (ran.code, ran.out) == (3, "")
    assert "--seconds was given" in ran.err


TWO = """graph @two[B in 1.., S in 2..64](%x: f32[B, S]) -> (f32[B, S]) {
  %y = neg %x : f32[B, S]
  return %y
}
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A model of two sizes."""
    return model(TWO).save(tmp_path / "two.mcomp")


def test_the_sizes_of_made_up_inputs_are_told(mcomp: Mcomp, two: Path) -> None:
    assert mcomp("run", two).out.startswith("sizes: B=1, S=2\noutput 0")
    assert mcomp("run", two, "--size", "B=3").out.startswith("sizes: B=3, S=2\n")
    assert mcomp("compare", two, two).out.startswith("sizes: B=1, S=2\n")
    bisected = ("bisect", two, "--pipeline", "dce")
    assert mcomp(*bisected, "--size", "S=9").out.startswith("sizes: B=1, S=9\n")
    assert mcomp(*bisected, "--json").err == "sizes: B=1, S=2\n"
    ran = mcomp("opt", two, "--pipeline", "dce")
    assert (ran.out.startswith("graph @two"), ran.err) == (True, "sizes: B=1, S=2\n")
    assert mcomp("bench", two, two, "--seconds", "0.05").out.splitlines()[0].strip() == "latency at B=1, S=2"
    assert "kernels at B=4, S=2, " in mcomp("bench", two, "--kernels", "--size", "B=4").out


def test_programs_get_the_sizes_too(mcomp: Mcomp, folder: Path, two: Path, difference: Path) -> None:
    import tests.manager.graphs  # noqa: F401  registers test-break

    def told(*argv: object) -> Any:
        return json.loads(mcomp(*argv, "--json").out)

    assert [row["sizes"] for row in told("run", two)] == [{"B": 1, "S": 2}]
    assert [row["sizes"] for row in told("bench", two, difference, "--seconds", "0.05")] == [{"B": 1, "S": 2}, {"B": 1}]
    assert [row["sizes"] for row in told("bench", two, "--kernels", "--size", "S=5")] == [{"B": 1, "S": 5}]
    assert told("compare", two, two)["sizes"] == {"B": 1, "S": 2}
    assert told("bisect", folder / "graph.mir", "--pipeline", "dce,test-break")["sizes"] == {"B": 1}


def test_sizes_of_files_are_not_made_up(mcomp: Mcomp, two: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 5), np.float32))
    given = ("--input", tmp_path / "x.npy")
    assert mcomp("run", two, *given).out.startswith("sizes: B=3, S=5\n")
    assert mcomp("bench", two, "--seconds", "0.05", *given).out.splitlines()[0].strip() == "latency at B=3, S=5"
    assert "sizes: " not in mcomp("compare", two, two, *given).out
    assert mcomp("opt", two, "--pipeline", "dce", *given).err == ""
