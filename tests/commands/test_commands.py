"""Each command: exit code, output for people and for programs, errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands.conftest import Mcomp, Ran
from tests.runtime.build import MLP


def process(*argv: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mcomp", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# as a program


def test_as_a_program(folder: Path) -> None:
    done = process("inspect", folder / "model.mcomp", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nodes"] == 6
    failed = process("inspect", folder / "missing.mcomp")
    assert (failed.returncode, failed.stdout) == (3, "")
    assert "there is no file" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_output_is_plain_when_nobody_looks(folder: Path) -> None:
    done = process("passes")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "quantize" in done.stdout


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m mcomp inspect --ir {folder / 'model.mcomp'} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_wrong_usage(mcomp: Mcomp) -> None:
    for argv in ((), ("frobnicate",), ("inspect",), ("run", "a.mcomp", "--no-such-option")):
        ran = mcomp(*argv)
        assert ran.code == 2
        assert "usage" in ran.err
        assert not ran.out
    assert mcomp("--version").out.startswith("mcomp ")


def test_help_lists_every_command(mcomp: Mcomp) -> None:
    text = mcomp("--help").out
    for name in ("optimize", "inspect", "run", "bench", "compare", "opt", "passes", "bisect", "demo", "doctor"):
        assert name in text
        assert mcomp(name, "--help").code == 0


# inspect


def test_inspect(mcomp: Mcomp, folder: Path) -> None:
    ran = mcomp("inspect", folder / "model.mcomp")
    assert ran.code == 0
    for words in ("6 nodes", "input x: f32[B, 8]", "symbol B: 1..", "linear x2, relu x1"):
        assert words in ran.out
    assert mcomp("inspect", "--ir", folder / "model.mcomp").out.startswith("graph @mlp")
    assert mcomp("inspect", folder / "graph.mir").code == 0
    assert "reference" in mcomp("inspect", "--report", folder / "model.mcomp").out
    assert mcomp("inspect", "--report", folder / "graph.mir").code == 3


def test_inspect_executes_nothing(mcomp: Mcomp, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the graph nor code in the file, and no backend is asked for anything."""

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was run")

    for place in ("mcomp.ops.evaluate.run_graph", "mcomp.backend.backend_named", "mcomp.runtime.compiled.restore",
                  "mcomp.runtime.choose.compile_on", "ctypes.CDLL", "subprocess.run"):
        monkeypatch.setattr(place, never)
    for option in ((), ("--ir",), ("--report",), ("--source",), ("--json",)):
        assert mcomp("inspect", folder / "model.mcomp", *option).code == 0


# run and bench


def test_run_on_arrays(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    ran = mcomp("run", folder / "model.mcomp", "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz", "--json")
    assert ran.code == 0
    row, = json.loads(ran.out)
    assert (row["dtype"], row["shape"]) == ("float32", [3, 4])
    from tests.runtime.build import model

    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_array_equal(found["output0"], model()(x))


def test_run_on_made_up_inputs(mcomp: Mcomp, folder: Path) -> None:
    assert "float32[5, 4]" in mcomp("run", folder / "model.mcomp", "--size", "B=5").out


@pytest.mark.parametrize(("argv", "words"), [
    (["--size", "five"], "write a symbol and a number"),
    (["--size", "B=0"], "B must be at least 1"),
    (["--size", "Q=3"], "no symbol Q"),
    (["--input", "no.npy"], "no.npy cannot be read"),
    (["-o", "/no/such/folder/y.npz"], "there is no folder"),
])
def test_run_with_wrong_arguments(mcomp: Mcomp, folder: Path, argv: list[str], words: str) -> None:
    ran = mcomp("run", folder / "model.mcomp", *argv)
    assert (ran.code, ran.out) == (3, "")
    assert words in ran.err


def test_bench(mcomp: Mcomp, folder: Path) -> None:
    file = folder / "model.mcomp"
    rows = json.loads(mcomp("bench", file, file, "--seconds", "0.05", "--json").out)
    assert len(rows) == 2
    assert all(0 < r["min_ms"] <= r["median_ms"] <= r["max_ms"] for r in rows)
    assert "median ms" in mcomp("bench", file, "--seconds", "0.05").out
    kernels = json.loads(mcomp("bench", file, "--kernels", "--json").out)
    assert [k["ops"] for k in kernels] == ["linear", "relu", "linear"]


# compare and bisect


def test_compare_finds_the_layer_with_the_corrupted_weight(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    same = mcomp("compare", folder / "graph.mir", folder / "graph.mir")
    assert same.code == 0
    assert "no layer differs" in same.out
    (tmp_path / "bad.mir").write_text(MLP.replace("fc2.weight#seed=3", "fc2.weight#seed=4"))
    ran = mcomp("compare", folder / "graph.mir", tmp_path / "bad.mir", "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert found["first_divergence"] == "fc2"
    errors = {row["layer"]: row["error"] for row in found["rows"]}
    assert errors["fc1"] == errors["act"] == 0 < errors["fc2"]
    table = mcomp("compare", folder / "graph.mir", tmp_path / "bad.mir").out
    assert "the first layer that differs by more than 0.001 is fc2" in table
    assert "equal" in table


def test_compare_a_file_with_a_dump_of_it(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    from mcomp import load

    load(folder / "model.mcomp").dump(tmp_path)
    assert mcomp("compare", folder / "model.mcomp", tmp_path / "model.mir").code == 0
    (tmp_path / "weights.safetensors").rename(tmp_path / "elsewhere.safetensors")
    ran = mcomp("compare", folder / "model.mcomp", tmp_path / "model.mir")
    assert ran.code == 3
    assert "--weights" in ran.err
    given = ("--weights", tmp_path / "elsewhere.safetensors")
    assert mcomp("compare", folder / "model.mcomp", tmp_path / "model.mir", *given).code == 0
    (tmp_path / "elsewhere.safetensors").write_bytes(b"nonsense")
    ran = mcomp("compare", folder / "model.mcomp", tmp_path / "model.mir", *given)
    assert "cannot be read as weights" in ran.err


def test_compare_needs_the_same_arguments(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    two = "graph @g(%x: f32[3], %y: f32[3]) -> (f32[3]) {\n  %z = add %x, %y : f32[3]\n  return %z\n}\n"
    (tmp_path / "two.mir").write_text(two)
    ran = mcomp("compare", folder / "graph.mir", tmp_path / "two.mir")
    assert ran.code == 3
    assert "not comparable" in ran.err


def test_bisect_finds_the_pass_and_the_rewrite(mcomp: Mcomp, folder: Path) -> None:
    """`test-break` claims to be exact and puts `exp` behind the relu in its third rewrite."""
    import tests.manager.graphs  # noqa: F401  registers it

    pipeline = "dce,test-break{harmless=2},cse"
    ran = mcomp("bisect", folder / "graph.mir", "--pipeline", pipeline, "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert (found["pass"], found["rewrite"]) == (2, 3)
    assert found["text"] == "test-break"
    assert "test-break-2" in found["record"]
    text = mcomp("bisect", folder / "graph.mir", "--pipeline", pipeline)
    assert "breaks in pass 2, test-break" in text.out
    fine = mcomp("bisect", folder / "graph.mir", "--pipeline", "dce,cse")
    assert fine.code == 0
    assert "holds after the whole pipeline" in fine.out


def test_bisect_with_a_check_of_ones_own(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    import tests.manager.graphs  # noqa: F401

    (tmp_path / "check.py").write_text("def few(graph):\n    return len(graph) <= 6\n")
    ran = mcomp("bisect", folder / "graph.mir", "--pipeline", "dce,test-add-abs", "--check", f"{tmp_path}/check.py:few")
    assert ran.code == 1
    assert "pass 2, test-add-abs" in ran.out


# opt and passes


def test_opt_prints_the_graph_and_keeps_the_rest_apart(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    options = ("--timing", "--statistics", "--journal", "--remarks", "--check", "--dump", tmp_path / "dumps")
    ran = mcomp("opt", folder / "graph.mir", "--pipeline", "simplify,dce", *options)
    assert ran.code == 0
    assert ran.out.startswith("graph @mlp")
    assert "ms" in ran.err
    assert (tmp_path / "dumps" / "000-start.mir").exists()
    (tmp_path / "passes.txt").write_text("dce,cse\n")
    again = mcomp("opt", folder / "graph.mir", "--pipeline", tmp_path / "passes.txt", "-o", tmp_path / "out.mir")
    assert (again.code, again.out) == (0, "")
    assert (tmp_path / "out.mir").read_text().startswith("graph @mlp")


def test_a_broken_graph_shows_the_place(mcomp: Mcomp, folder: Path) -> None:
    for command in (("inspect",), ("opt", "--pipeline", "dce"), ("bisect", "--pipeline", "dce")):
        ran = mcomp(*command, folder / "broken.mir")
        assert (ran.code, ran.out) == (3, "")
        assert "line 1: expected `:`" in ran.err
        assert "graph @g(%x f32[3])" in ran.err
        assert "\n              ^" in ran.err


def test_an_unknown_pass_and_option(mcomp: Mcomp, folder: Path) -> None:
    ran = mcomp("opt", folder / "graph.mir", "--pipeline", "simplfy")
    assert ran.code == 3
    assert "did you mean simplify?" in ran.err
    ran = mcomp("opt", folder / "graph.mir", "--pipeline", "fuse{max_siz=3}")
    assert "did you mean max_size?" in ran.err


def test_a_crash_leaves_a_reproducer(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    import tests.manager.graphs  # noqa: F401

    ran = mcomp("opt", folder / "graph.mir", "--pipeline", "dce,test-crash", "--reproducer", tmp_path / "crash")
    assert ran.code == 3
    assert "on purpose" in ran.err
    assert f"reproducer was written to {tmp_path / 'crash'}" in ran.err
    again = mcomp("opt", tmp_path / "crash", "--pipeline", tmp_path / "crash" / "pipeline.txt")
    assert "on purpose" in again.err


def test_passes(mcomp: Mcomp) -> None:
    rows = {r["name"]: r for r in json.loads(mcomp("passes", "--json").out)}
    assert rows["dce"]["effect"] == "exact"
    assert rows["quantize"]["effect"] == "approximate"
    assert all(r["summary"] for r in rows.values())
    text = mcomp("passes", "quantize").out
    assert "before" in text
    assert "after" in text
    assert "bits" in text
    assert "Options and their defaults: format=integers, bits=8" in text
    one = json.loads(mcomp("passes", "quantize", "--json").out)
    assert one["documentation"] in text and "bits=8" in one["options"]
    ran = mcomp("passes", "quantise")
    assert ran.code == 3
    assert "did you mean quantize?" in ran.err


# optimize


def test_optimize_saves_and_reports(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    source = f"{folder / 'source.py'}:everything"
    out = tmp_path / "m.mcomp"
    ran = mcomp("optimize", source, "-o", out, "--target", "reference", "--max-drop", "0.5", "--objective", "size",
                "--exclude", "2", "--json", "--dump", tmp_path / "dump")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["within_budget"] is True
    assert (tmp_path / "dump" / "report.txt").exists()
    assert mcomp("run", out).code == 0
    text = mcomp("optimize", f"{folder / 'source.py'}:pair", "-o", out, "--target", "reference").out
    assert "lossless" in text
    assert f"saved as {out}" in text


def test_optimize_takes_options_from_the_function(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    def optimized(name: str) -> tuple[Ran, str]:
        out = tmp_path / "m.mcomp"
        ran = mcomp("optimize", f"{folder / 'source.py'}:{name}", "-o", out, "--target", "reference", "--pipeline",
                    "quantize{bits=8}")
        return ran, mcomp("inspect", "--ir", out).out if ran.code == 0 else ""

    ir = optimized("everything")[1]
    assert ir.count("affine<i8") == 2 and "f32[B, 8]" in ir
    ir = optimized("chosen")[1]
    assert ir.count("affine<i8") == 1 and "f32[8, 8]" in ir and "f32[B, 8]" not in ir
    assert "there is no module '3', for which a student was given" in optimized("strange")[0].err
    assert "seed is -1" in optimized("unlucky")[0].err
    assert "dynamic, layers, students, seed" in " ".join(mcomp("optimize", "--help").out.split())


def test_optimize_says_when_the_budget_was_not_met(mcomp: Mcomp, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.mcomp"
    ran = mcomp("optimize", f"{folder / 'source.py'}:everything", "-o", out, "--target", "reference",
                "--pipeline", "quantize{bits=8}", "--max-error", "1e-9")
    assert ran.code == 1
    assert "NOT met" in ran.out
    assert out.exists()


def test_an_evaluate_that_fails_tells_where(mcomp: Mcomp, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("""
import torch

def metric(model):
    return 1 / 0

def task():
    x = torch.ones(2, 4)
    return {"model": torch.nn.Linear(4, 2).eval(), "args": (x,), "calibration": [(x,)], "evaluate": metric}
""")
    ran = mcomp("optimize", f"{source}:task", "-o", tmp_path / "m.mcomp", "--target", "reference", "--max-drop", "0.5")
    assert ran.code == 3
    assert "in metric" in ran.err and "ZeroDivisionError" in ran.err
    assert ran.err.index("in metric") < ran.err.index("MC0520")


@pytest.mark.parametrize(("reference", "words"), [
    ("source.py:nothing", "has no nothing"),
    ("source.py", "names no function"),
    ("missing.py:pair", "there is no file"),
    ("no.such.module:pair", "cannot be imported"),
    ("source.py:bare", "gives no example arguments"),
    ("source.py:misspelt", "'arguments'"),
])
def test_optimize_from_a_wrong_source(
    mcomp: Mcomp, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, words: str
) -> None:
    monkeypatch.chdir(folder)
    ran = mcomp("optimize", reference, "-o", tmp_path / "m.mcomp", "--target", "reference")
    assert (ran.code, ran.out) == (3, "")
    assert words in ran.err
    assert "help:" in ran.err
    assert not list(tmp_path.iterdir())


def test_optimize_looks_at_the_output_first(mcomp: Mcomp, folder: Path) -> None:
    ran = mcomp("optimize", f"{folder / 'source.py'}:pair", "-o", "/no/such/folder/m.mcomp")
    assert ran.code == 3
    assert "there is no folder" in ran.err


# doctor


def test_doctor(mcomp: Mcomp) -> None:
    from mcomp.backend import backend_named
    from mcomp.threads import available_threads

    ran = mcomp("doctor", "--json")
    facts = json.loads(ran.out)
    assert facts["cores"] == int(facts["target cpu: threads"]) == available_threads()
    ready = backend_named("cpu").available() is None
    assert ran.code == (0 if ready else 1)
    assert (facts["target cpu"] == "ready") == ready
    assert facts["target reference"] == "ready"
    for name in ("target cpu: compiler", "target cpu: instruction sets", "target cpu: threads", "target cpu: cache",
                 "OpenMP copies in this process", "peak f32", "our kernels f32", "reading", "torch", "cores"):
        assert name in facts
    assert "instruction sets" in mcomp("doctor").out
