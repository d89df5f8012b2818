"""Models as C libraries: the example compiles, and gives the numbers that Python gives."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mcomp.backend import backend_named
from mcomp.errors import ArtifactError, BackendError
from mcomp.runtime.compiled import CompiledModel
from mcomp.runtime.export_c import identifiers
from tests.runtime.build import COUNTER, MLP, model

needs_compiler = pytest.mark.skipif(
    backend_named("cpu").available() is not None or not shutil.which("g++") or not shutil.which("make"),
    reason="there is no g++, or no make, on this machine",
)

LOOKUP = """
graph @lookup[B in 1.., S in 1..64](%ids: i64[B, S], %scale: f32[S]) -> (f32[B, S, 8], i64[B]) {
  %table = const @rows.weight#seed=1 : f32[2, 8]  loc(rows)
  %e = embedding %table, %ids : f32[B, S, 8]  loc(rows)
  %s = unsqueeze %scale {axes = [1]} : f32[S, 1]
  %y = mul %e, %s : f32[B, S, 8]  loc(scale)
  %n = sum %ids {axes = [1]} : i64[B]
  return %y, %n
}
"""


def filling(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """What the example fills its inputs with."""
    i = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return (i % 2).astype(dtype) if np.issubdtype(dtype, np.integer) else ((i % 7).astype(np.float32) / np.float32(7))


def printed(text: str) -> dict[str, list[float]]:
    """The values that the example prints, by output."""
    found: dict[str, list[float]] = {}
    for name, value in re.findall(r"^(\w+)\[\d+\] = (\S+)$", text, re.M):
        found.setdefault(name, []).append(float(value))
    return found


def run(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def mlp() -> CompiledModel:
    return model(MLP, target="cpu")


@needs_compiler
def test_make_builds_the_example_and_its_numbers_agree(mlp: CompiledModel, tmp_path: Path) -> None:
    folder = mlp.export_c(tmp_path / "mlp")
    run("gcc -std=c99 -Wall -Wextra -Werror -fsyntax-only example.c", folder)
    found = printed(run("make -s && ./example", folder))
    expected = np.asarray(mlp(filling((2, 8), np.float32))).reshape(-1)[:8]
    np.testing.assert_allclose(found["output"], expected, rtol=1e-6, atol=1e-7)


@needs_compiler
def test_the_one_command_of_the_readme_with_integers_and_two_outputs(tmp_path: Path) -> None:
    lookup = model(LOOKUP, target="cpu")
    folder = lookup.export_c(tmp_path / "lookup", "lookup")
    command = next(line for line in (folder / "README.txt").read_text().splitlines() if line.startswith("    g++"))
    found = printed(run(f"{command} && ./example", folder))
    y, n = lookup(filling((2, 2), np.int64), filling((2,), np.float32))
    np.testing.assert_allclose(found["output0"], np.asarray(y).reshape(-1)[:8], rtol=1e-6)
    assert found["output1"] == [float(v) for v in np.asarray(n)]
    _sizes_faults_and_foreign_weights(folder)


def _sizes_faults_and_foreign_weights(folder: Path) -> None:
    """Another size, sizes out of bounds, an index out of range and a damaged weights file, from C."""
    (folder / "check.c").write_text(r"""
#include <stdio.h>
#include <stdlib.h>
#include "lookup.h"
int main(void) {
  lookup* weights = lookup_open("lookup.weights", 2);
  lookup_call* call = lookup_prepare(weights, 3, 5, 2);
  int64_t ids[15] = {0, 1, 1};
  float scale[5] = {1, 2, 3, 4, 5}, y[120];
  int64_t n[3];
  printf("%lld %lld %lld\n", (long long)lookup_count_ids(call), (long long)lookup_count_output0(call),
         (long long)lookup_run(call, ids, scale, y, n));
  printf("%lld %d\n", (long long)n[0], y[0] == y[24] / 4);
  ids[7] = 99;
  int32_t step = lookup_run(call, ids, scale, y, n);
  printf("%s\n", lookup_step(step));
  printf("%d %s\n", lookup_prepare(weights, 1, 65, 1) == NULL, lookup_error());
  printf("%d %s\n", lookup_open("no.weights", 1) == NULL, lookup_error());
  printf("%d %s\n", lookup_open("README.txt", 1) == NULL, lookup_error());
  lookup_release(call);
  lookup_close(weights);
  return 0;
}
""")
    command = next(line for line in (folder / "README.txt").read_text().splitlines() if line.startswith("    g++"))
    command = command.replace("example.c", "check.c").replace("-o example", "-o check")
    lines = run(f"{command} && ./check", folder).splitlines()
    assert lines[0] == "15 120 0"
    assert lines[1].startswith("2 ")
    assert "embedding rows" in lines[2]
    assert lines[3] == "1 S is out of bounds"
    assert lines[4] == "1 no.weights cannot be read"
    assert lines[5] == "1 README.txt holds the weights of another model"


def test_files_need_no_compiler_to_be_looked_at(mlp: CompiledModel, tmp_path: Path) -> None:
    folder = mlp.export_c(tmp_path / "net", "net")
    names = {p.name for p in folder.iterdir()}
    assert names == {"net.h", "net.cpp", "net.weights", "example.c", "Makefile", "README.txt", "kernels"}
    header = (folder / "net.h").read_text()
    assert "in  x: f32[B, 8]" in header
    assert "net_call* net_prepare(const net* weights, int64_t B, int32_t threads);" in header
    assert "int32_t net_run(net_call* call, const float* x, float* output);" in header
    included = {*re.findall(r'#include "(\w+\.hpp)"', (folder / "net.cpp").read_text())}
    assert included <= {p.name for p in (folder / "kernels").iterdir()}


@pytest.mark.parametrize("name", [
    "Makefile", "README.txt", "example.c", "net.h", "net.cpp", "net.weights", "kernels/standalone.hpp",
])
def test_files_of_others_are_not_replaced(mlp: CompiledModel, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("all: mine\n")
    with pytest.raises(ArtifactError, match=rf"{name} is there already, and mcomp did not write it.*\n.*another folder"):
        mlp.export_c(tmp_path, "net")
    assert mine.read_text() == "all: mine\n"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [mine]


def test_an_earlier_export_is_replaced(mlp: CompiledModel, tmp_path: Path) -> None:
    folder = mlp.export_c(tmp_path, "net")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for path in before:
        path.write_bytes(before[path] + b"\n")
    mlp.export_c(tmp_path, "net")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_what_cannot_be_exported_is_refused_with_the_reason(mlp: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"generates no code.*\n.*target=\"cpu\""):
        model(MLP).export_c(tmp_path)
    with pytest.raises(ArtifactError, match=r"keeps state.*count"):
        model(COUNTER).export_c(tmp_path)
    for name in ("main", "a b", "", "x" * 80, "int", "../evil"):
        with pytest.raises(ArtifactError, match="cannot name"):
            mlp.export_c(tmp_path, name)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="could not be written"):
        mlp.export_c(tmp_path / "file")


@needs_compiler
def test_nodes_that_torch_runs_are_named(tmp_path: Path) -> None:
    text = """
    graph @g[B in 1..](%x: f32[B, 4, 4]) -> (f32[B, 4, 4]) {
      %y = aten.linalg_inv.default {args = ["$0"]} %x : f32[B, 4, 4]  loc(solver "model.py":3)
      %z = relu %y : f32[B, 4, 4]
      return %z
    }
    """
    text = text.replace('aten.linalg_inv.default {args = ["$0"]} %x', 'aten.linalg_inv.default %x {args = ["$0"]}')
    with pytest.raises(BackendError, match=r"aten.linalg_inv.default runs in torch.*solver"):
        model(text, target="cpu").export_c(tmp_path)


@needs_compiler
def test_sizes_have_names_that_c_can_use(tmp_path: Path) -> None:
    text = """graph @g [threads in 1.., int in 1..] (%x: f32[threads, int]) -> (f32[threads, int]) {
  %y = relu %x : f32[threads, int]
  return %y
}"""
    model(text, target="cpu").export_c(tmp_path)
    run("make", tmp_path)
    header = (tmp_path / "model.h").read_text()
    assert "threads_2" in header and "int_2" in header


def test_names_become_identifiers() -> None:
    assert identifiers(["x", "input_ids", "cache.layers[0].keys", "int", "x", "", "0"], "input") == (
        "x", "input_ids", "cache_layers_0_keys", "int_2", "x_2", "input", "input0",
    )
    hostile = identifiers(['x); system("rm', "a\nb", "é*/", "x" * 100], "input")
    assert all(re.fullmatch(r"[A-Za-z]\w{0,45}", name, re.A) for name in hostile)
