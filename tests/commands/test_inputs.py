"""What commands run on: arrays from files, by name or in order, and made-up ones of sizes that are told."""

from pathlib import Path

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
