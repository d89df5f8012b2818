"""Choosing by measuring: with a made-up clock, so that it is known what should come out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mcomp.backends.triton import tune
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.device import Interpreter
from mcomp.backends.triton.executor import TritonExecutable
from mcomp.backends.triton.program import Chip, Choice, Launch
from mcomp.backends.triton.tune import Tuner, bucket, rounded
from mcomp.ir import dtypes
from mcomp.ir.encoding import DENSE, Affine, Encoding, Scaled
from mcomp.ir.graph import Value
from mcomp.ops.evaluate import run_graph
from tests.triton.harness import B, Made, close, inputs_of, made, needs_triton

pytestmark = needs_triton


class Timed(Interpreter):
    """An interpreter that passes for a chip, so that there is more than one configuration, and counts what it times.

    `cost(launches)`: milliseconds of work that starts these launches, as (kind, configuration).
    """

    def __init__(self, cost: Callable[[list[tuple[str, str]]], float]) -> None:
        super().__init__()
        self.chip = Chip(90, 227 << 10, 132)
        self.cost = cost
        self.timed = 0
        self._seen: list[tuple[str, str]] = []

    def launch(self, function: Any, grid: tuple[int, ...], args: Any, config: Any) -> None:
        self._seen.append((function.__name__.rsplit("_", 1)[0], str(config)))
        super().launch(function, grid, args, config)

    def milliseconds(self, work: Callable[[], None]) -> float:
        self.timed += 1
        self._seen = []
        work()
        return self.cost(self._seen)


def _graph(m: Made) -> list[Value]:
    return [m.op("relu", m.op("linear", m.input((B, 40)), m.const((24, 40)), m.const((24,))))]


def _executable(device: Timed, folder: Path, seconds: float = 60.0) -> TritonExecutable:
    return TritonExecutable(lower_graph(made(_graph), None), device, Tuner(device, folder=folder, seconds=seconds, most=3))


def _narrowest(seen: list[tuple[str, str]]) -> float:
    """The smallest tile wins, and tiles win over anything else."""
    tiles = [float(text.split("BLOCK_M=")[1].split()[0]) for _, text in seen if "BLOCK_M" in text]
    return sum(tiles) if tiles else 1e6


def test_the_fastest_is_found_once_and_kept(tmp_path: Path) -> None:
    device = Timed(_narrowest)
    executable = _executable(device, tmp_path)
    graph = made(_graph)
    given = inputs_of(graph, {"B": 20})
    close(executable.run(given, {"B": 20})[0], run_graph(graph, given)[0])
    launch = next(s for s in executable.steps({"B": 20}) if isinstance(s, Launch))
    sizes = {"rows": 20, "cols": 24, "inner": 40, "n0": 20}
    candidates = launch.configs(sizes, device.chip)[:3]
    assert len(candidates) > 1
    timed = device.timed
    assert timed > 1
    (kept,) = tmp_path.iterdir()
    found = json.loads(kept.read_text())["found"]
    best = next(v["best"] for k, v in found.items() if k.startswith(launch.name))
    assert best == str(min(candidates, key=lambda c: c["BLOCK_M"]))
    executable.run(given, {"B": 20})
    again = Timed(_narrowest)
    _executable(again, tmp_path).run(given, {"B": 20})
    assert device.timed == timed and again.timed == 0, "it was searched again"


def test_other_sizes_and_versions_are_other_keys(tmp_path: Path) -> None:
    device = Timed(_narrowest)
    executable = _executable(device, tmp_path)
    graph = made(_graph)
    executable.run(inputs_of(graph, {"B": 20}), {"B": 20})
    before = device.timed
    executable.run(inputs_of(graph, {"B": 25}), {"B": 25})
    assert device.timed > before
    newer = Timed(_narrowest)
    newer.key = lambda: "another version"  # type: ignore[method-assign]
    _executable(newer, tmp_path).run(inputs_of(graph, {"B": 20}), {"B": 20})
    assert newer.timed > 1 and len(list(tmp_path.iterdir())) == 2


def test_sizes_of_a_bucket_are_searched_for_once(tmp_path: Path) -> None:
    """A new length of sentences finds what the first of its bucket found, in another process, too."""
    device = Timed(_narrowest)
    executable = _executable(device, tmp_path)
    graph = made(_graph)
    executable.run(inputs_of(graph, {"B": 20}), {"B": 20})
    before = device.timed
    for rows in (17, 24, 20):
        given = inputs_of(graph, {"B": rows})
        close(executable.run(given, {"B": rows})[0], run_graph(graph, given)[0])
    assert device.timed == before and before > 1
    again = Timed(_narrowest)
    _executable(again, tmp_path).run(inputs_of(graph, {"B": 18}), {"B": 18})
    assert again.timed == 0
    launch = next(s for s in executable.steps({"B": 20}) if isinstance(s, Launch))
    assert executable.tuner is not None
    sizes = {"cols": 24, "inner": 40}
    found = {rows: executable.tuner.settled(launch, {"rows": rows, **sizes, "n0": rows}) for rows in (18, 20)}
    assert found[18] == found[20] and found[20]["BLOCK_M"] == 16


def test_sizes_that_are_known_count_as_they_are(tmp_path: Path) -> None:
    assert [bucket(n) for n in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 24, 25, 33, 48, 49, 1024, 1025)] == [
        0, 1, 2, 3, 4, 6, 6, 8, 8, 12, 24, 24, 32, 48, 48, 64, 1024, 1536]
    assert rounded({"rows": 20, "cols": 21}, (("rows", B), ("cols", 21))) == {"rows": 24, "cols": 21}
    device = Timed(_narrowest)
    for rows in (20, 18):
        graph = made(lambda m, rows=rows: [m.op("linear", m.input((rows, 40)), m.const((24, 40)))])
        before = device.timed
        owner = TritonExecutable(lower_graph(graph, None), device, Tuner(device, folder=tmp_path, most=3))
        owner.run(inputs_of(graph, {}), {})
        assert device.timed > before


def test_changed_kernels_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiles compute is in files of their own: their text is no part of the names of kernels."""
    graph = made(_graph)
    _executable(Timed(_narrowest), tmp_path).run(inputs_of(graph, {"B": 20}), {"B": 20})
    monkeypatch.setattr(tune, "code_digest", lambda folder: f"another {folder.name}")
    device = Timed(_narrowest)
    executable = _executable(device, tmp_path)
    executable.run(inputs_of(graph, {"B": 20}), {"B": 20})
    assert device.timed > 1 and len(list(tmp_path.iterdir())) == 2


def test_without_time_the_cost_model_chooses_and_nothing_is_kept(tmp_path: Path) -> None:
    device = Timed(_narrowest)
    executable = _executable(device, tmp_path, seconds=0.0)
    graph = made(_graph)
    executable.run(inputs_of(graph, {"B": 20}), {"B": 20})
    assert device.timed == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("wins", ["library", "tile"])
def test_a_library_wins_where_it_is_faster(wins: str, tmp_path: Path) -> None:
    """Its kernel and ours for what follows give the same numbers, recorded and replayed too."""
    def cost(seen: list[tuple[str, str]]) -> float:
        ours = any(kind in ("linear", "vector") for kind, _ in seen)
        return 2.0 if ours == (wins == "library") else 1.0

    device = Timed(cost)
    executable = _executable(device, tmp_path)
    graph = made(_graph)
    for seed in range(4):
        given = inputs_of(graph, {"B": 20}, seed)
        close(executable.run(given, {"B": 20})[0], run_graph(graph, given)[0])
    infos = executable.kernels({"B": 20})
    assert all(k.native for k in infos)
    assert [k.name.rsplit("_", 1)[0] for k in infos] == (["linear", "tail"] if wins == "library" else ["linear"])


def test_a_configuration_that_does_not_run_is_out(tmp_path: Path) -> None:
    class OutOfResources(Exception):
        pass

    def cost(seen: list[tuple[str, str]]) -> float:
        if any("BLOCK_M=16" in text for _, text in seen):
            raise OutOfResources
        return _narrowest(seen)

    device = Timed(cost)
    executable = _executable(device, tmp_path)
    graph = made(_graph)
    given = inputs_of(graph, {"B": 20})
    assert torch.isfinite(executable.run(given, {"B": 20})[0]).all()
    found = json.loads(next(tmp_path.iterdir()).read_text())["found"]
    assert all("BLOCK_M=16 " not in v["best"] for v in found.values())


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("kind", ["linear", "vector"])
@pytest.mark.parametrize(("encoding", "inner"), [
    (DENSE, 2500), (DENSE, 2048), (Affine(axis=(0,)), 2048), (Affine(axis=(0,), group=64), 2496),
    (Affine(dtypes.i4, axis=(0,), group=32), 4128), (Scaled(axis=(0,)), 2100),
], ids=str)
def test_a_long_inner_axis_is_cut_where_that_is_faster(
    encoding: Encoding, inner: int, kind: str, rows: int, tmp_path: Path
) -> None:
    """The parts are added up by a kernel of their own, and what follows is computed there."""
    graph = made(lambda m: [
        m.op("relu", m.op("linear", m.input((B, inner)), m.const((24, inner), dtypes.f32, encoding), m.const((24,)))),
    ])

    def cost(seen: list[tuple[str, str]]) -> float:
        return 1.0 if any(k.startswith(kind) and k.endswith("_split") for k, _ in seen) else 2.0

    device = Timed(cost)
    executable = TritonExecutable(lower_graph(graph, None), device, Tuner(device, folder=tmp_path, most=1))
    given = inputs_of(graph, {"B": rows})
    close(executable.run(given, {"B": rows})[0], run_graph(graph, given)[0])
    assert [k.name.rsplit("_", 1)[0] for k in executable.kernels({"B": rows})][1:] == ["split_sum"]


def test_what_is_cut() -> None:
    """Only what is long, known, and multiplies few rows; by itself where a chip has more cores than tiles."""
    def ways(inner: int, rows: int) -> tuple[list[str], str]:
        graph = made(lambda m: [m.op("linear", m.input((B, inner)), m.const((256, inner)))])
        step = next(s for s in lower_graph(graph, None).steps if isinstance(s, Choice))
        sizes = {"rows": rows, "cols": 256}
        return step.tried(sizes), step.ways[step.default(sizes, Chip(90, 227 << 10, 132))][0]

    assert ways(1024, 1) == (["tile", "vector", "library"], "vector")
    assert ways(4096, 1) == (["tile", "vector", "library", "split tile", "split vector"], "split vector")
    assert ways(4096, 64)[1] == "split tile"
    assert ways(4096, 65) == (["tile", "vector", "library"], "tile")
