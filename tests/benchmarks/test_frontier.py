"""The benchmark of the front: its parts on made-up data; a search, its artifacts and their loader; table and picture."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import frontier, heads, machine, metrics, models, picture, singles, teachers
from benchmarks.case import Case, Samples, tensors
from benchmarks.networks import mlp
from benchmarks.peers import artifact
from benchmarks.peers.base import Setup
from benchmarks.peers.ours import INT8_PIPELINE
from benchmarks.results import CaseResult, Entry, Results
from mcomp.manager.pipeline import parse_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table shaped as Isolet's: clusters of 26 letters."""
    place = tmp_path_factory.mktemp("data")
    (place / "tabular").mkdir()
    rng = np.random.default_rng(0)
    y = np.arange(780) % 26 + 1
    x = rng.standard_normal((27, 617))[y] + 1.5 * rng.standard_normal((780, 617))
    np.savez(place / "tabular" / "isolet.npz", x=x, y=y)
    return place


def test_splits_of_isolet_are_apart_and_differ(folder: Path) -> None:
    first, second = (teachers.isolet(folder, split) for split in (0, 1))
    rows = {row.tobytes() for row in first.train.inputs[0]}
    assert len(first.test) == 195
    assert len(first.train) == 585
    assert not rows & {row.tobytes() for row in first.test.inputs[0]}
    assert {row.tobytes() for row in first.selection.inputs[0]} < rows
    assert not np.array_equal(first.test.labels, second.test.labels)  # type: ignore[arg-type]


def test_teachers_are_trained_once_and_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = teachers.isolet(folder, 0)

    def made() -> torch.nn.Module:
        return teachers.teacher("small", table, (32,), tmp_path, epochs=30, dropout=0.1)

    first = made()
    monkeypatch.setattr(teachers, "_fit", lambda *given, **options: pytest.fail("trained again"))
    again = made()
    (x,) = tensors(table.test.inputs)
    assert torch.equal(first(x), again(x))
    assert metrics.top1(first(x).detach().numpy(), table.test.labels) > 80.0  # type: ignore[arg-type]
    assert not any(isinstance(m, torch.nn.Dropout) for m in first.modules())


def test_teachers_of_other_recipes_and_data_are_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[object] = []
    monkeypatch.setattr(teachers, "_fit", lambda model, rows, **options: trained.append(options))
    first, second = (teachers.isolet(folder, split) for split in (0, 1))
    for table, epochs, dropout in ((first, 3, 0.1), (first, 4, 0.1), (first, 3, 0.2), (second, 3, 0.1), (first, 3, 0.1)):
        teachers.teacher("small", table, (8,), tmp_path, epochs=epochs, dropout=dropout)
    assert len(trained) == 4
    assert len([*tmp_path.glob("small-*.safetensors")]) == 4


def test_a_teacher_whose_writing_fails_leaves_no_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(teachers, "_fit", lambda model, rows, **options: model)
    monkeypatch.setattr("safetensors.torch.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        teachers.teacher("small", teachers.isolet(folder, 0), (8,), tmp_path, epochs=1, dropout=0.1)
    assert [*tmp_path.iterdir()] == []


def test_calibration_of_a_table_has_no_rows_that_select(folder: Path, tmp_path: Path) -> None:
    case = models.load("isolet0", models.Options(folder, kept=tmp_path))
    assert case.selection is not None
    held = {row.tobytes() for row in case.selection.inputs[0]}
    assert len(case.calibration) == 468
    assert not held & {row.tobytes() for row in (*case.calibration.inputs[0], *case.example[0])}


def test_a_head_is_fitted_once_for_each_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    vectors = (rng.standard_normal((40, 6)) + 3 * labels[:, None]).astype(np.float32)
    monkeypatch.setattr(heads.data, "sst2", lambda folder, split, count: ([str(i) for i in range(40)], labels))
    built: list[str] = []

    def build() -> torch.nn.Module:
        built.append("network")
        return torch.nn.Identity()

    def scored(network: str) -> float:
        head = heads.sst2_head(tmp_path, tmp_path, lambda sentences: (vectors,), build, 40, network)
        return head(lambda x: x)

    assert scored("one 1.0") == scored("one 1.0") > 90.0
    assert len(built) == 1
    scored("one 2.0")
    assert len(built) == 2
    assert len([*(tmp_path / "teachers").iterdir()]) == 2


def test_teachers_see_another_view_in_each_epoch_and_none_of_selection_rows(tmp_path: Path) -> None:
    x = np.arange(1, 201, dtype=np.float32).repeat(2).reshape(200, 2)
    labels = np.arange(200) % 3
    drawn: list[int] = []

    def view(seed: int) -> np.ndarray:
        drawn.append(seed)
        return -x

    table = teachers.Table(Samples((x,), labels), Samples((x[150:],), labels[150:]), Samples((x,), labels), view)
    teachers.teacher("small", table, (4,), tmp_path, epochs=3, dropout=0.0)
    assert drawn == [0, 1, 2]
    assert np.array_equal(teachers.view_of(table, 0), -x[:150])
    assert np.array_equal(teachers.unlabelled(table), np.concatenate([x[:150], -x[:150]]))
    assert len(teachers.unlabelled(dataclasses.replace(table, views=None))) == 150


def test_single_techniques_can_be_chosen(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there are.*int4; int4, int8 activations;"):
        frontier.main(["--data", str(folder), "--singles", "int4;int5"])


class _Share:
    """A model that is left with a share of a technique, and loses more the less that is."""

    def __init__(self, pipeline: str) -> None:
        self.share = float(pipeline.partition("flops=")[2].partition("}")[0] or 1.0)

    def report(self) -> argparse.Namespace:
        return argparse.Namespace(rows=[argparse.Namespace(flops=7)])


@pytest.mark.parametrize(("least", "steps"), [(0.3, [True, False, True, True, True]), (0.98, [False] * 5)])
def test_a_single_technique_goes_as_far_as_the_budget_allows(
    monkeypatch: pytest.MonkeyPatch, least: float, steps: list[bool]
) -> None:
    made: list[str] = []

    def compressed(pipeline: str, *rest: object) -> _Share:
        made.append(pipeline)
        return _Share(pipeline)

    monkeypatch.setattr(singles, "compressed", compressed)
    case = argparse.Namespace(name="some", build=lambda: _Share(""))

    def tuned(drop: float) -> object:
        return singles.tuned(
            "prune", "prune{flops=SHARE}", case, [], argparse.Namespace(), drop,  # type: ignore[arg-type]
            lambda model: 100.0 * model.share,
        )

    if not any(steps):
        with pytest.raises(models.Unavailable, match="budget broke"):
            tuned(100.0 * (1.0 - least))
        return
    model, told = tuned(100.0 * (1.0 - least))  # type: ignore[misc]
    assert [t["lost"] <= 70.0 for t in told["tries"]] == steps
    assert least <= model.share < least + 1.0 / 2**len(steps)
    assert told["pipeline"] == f"prune{{flops={model.share:.3f}}},{INT8_PIPELINE}" in made and told["operations"] == 7


def test_some_images_are_mirrored() -> None:
    images = np.arange(200 * 6, dtype=np.float32).reshape(200, 2, 3)
    found = teachers.mirrored(images, 1)
    same = (found == images).all((1, 2))
    assert 50 < same.sum() < 150 and np.array_equal(found[~same], images[~same][:, :, ::-1])
    assert np.array_equal(found, teachers.mirrored(images, 1)) and not np.array_equal(found, teachers.mirrored(images, 2))


def test_logistic_regression_is_chosen_on_the_selection_rows_and_fitted_on_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = teachers.isolet(folder, 0)
    fits: list[tuple[float, int]] = []

    class Regression:
        """One that is right about selection rows for one C, and about test rows always."""

        def __init__(self, C: float, max_iter: int) -> None:
            self.penalty = C

        def fit(self, x: np.ndarray, y: np.ndarray) -> Regression:
            fits.append((self.penalty, len(x)))
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            samples = table.test if len(x) == len(table.test) else table.selection
            assert samples.labels is not None
            return samples.labels if samples is table.test or self.penalty == 0.01 else samples.labels + 1

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", Regression)
    assert teachers.linear_score(table) == 100.0
    without = len(table.train) - len(table.selection)
    assert fits == [*((penalty, without) for penalty in teachers.PENALTIES), (0.01, len(table.train))]


def test_logistic_regression_learns_what_is_linear(folder: Path) -> None:
    assert teachers.linear_score(teachers.isolet(folder, 0)) > 90.0


@pytest.fixture
def case() -> Case:
    torch.manual_seed(0)
    module = mlp((16, 64, 4)).eval()
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((320, 4)) @ rng.standard_normal((4, 16))).astype(np.float32)
    with torch.no_grad():
        labels = module(torch.from_numpy(x)).argmax(-1).numpy()
    return Case(
        "tiny", "Tiny", 1, ("x",), lambda: module, (x[:1],), Samples((x[:64],)), Samples((x[:100],), labels[:100]),
        Samples((x[200:],), labels[200:]), metrics.top1, "top-1 %", unlabelled=Samples((x,)),
    )


def test_the_search_sees_unlabelled_batches_and_a_score(case: Case) -> None:
    batches = frontier.calibration_of(case)
    assert [tuple(b[0].shape) for b in batches] == [(8, 16)] * 40
    assert frontier.evaluator(case)(case.build()) == 100.0


def test_sentences_are_cut_to_their_lengths(case: Case) -> None:
    lengths = np.array([5] * 20 + [14] * 9)
    mask = (np.arange(32) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, 7, 0)
    words = dataclasses.replace(case, unlabelled=Samples((ids, mask)), dynamic={"ids": {1: "S"}, "mask": {1: "S"}})
    batches = frontier.calibration_of(words)
    assert sorted(tuple(b[0].shape) for b in batches) == [(8, 8), (8, 8), (8, 16)]
    assert all(int(b[0].sum()) == 7 * int(b[1].sum()) for b in batches)


def test_sentences_are_scored_in_their_order_whatever_batches_they_run_in(case: Case) -> None:
    lengths = np.random.default_rng(1).integers(1, 30, 130)
    mask = (np.arange(32) < lengths[:, None]).astype(np.int64)
    inputs = (np.arange(130)[:, None] * mask, mask)
    words = dataclasses.replace(
        case, selection=Samples(inputs, np.arange(130)), dynamic={"ids": {1: "S"}, "mask": {1: "S"}},
        metric=lambda outputs, labels: float(np.array_equal(outputs, labels)),
    )
    shapes = set()

    def model(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(ids.shape))
        return ids[:, 0]

    assert frontier.evaluator(words)(model) == 1.0
    assert {length for _, length in shapes} == {8, 16, 24, 32}


def test_a_case_without_labels_cannot_be_searched() -> None:
    with pytest.raises(models.Unavailable, match="selection"):
        frontier.evaluator(models.load("mlp_small", models.Options()))


def test_a_search_leaves_artifacts_that_are_loaded_and_scored(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcomp.plan.planner.TRIALS", 1)
    monkeypatch.setattr("mcomp.plan.planner.SWITCHES", 0)
    options = argparse.Namespace(threads=1, seed=0, objective=None)
    goal = frontier.Goal("tiny", drop=5.0, objective="size")
    names, told = frontier.planned(goal, case, options, tmp_path, 0.0)
    assert names[0] == "plan"
    assert told["within_budget"] is True
    assert told["evaluations"][0]["model"] == "original"
    runner = artifact.candidates("plan", Setup(case, 1, tmp_path, kept=tmp_path))[0].make()
    assert runner.size_bytes == artifact.place(tmp_path, "tiny", "plan").stat().st_size
    assert case.score(runner, case.test) >= 90.0  # type: ignore[operator]
    runner.bind(*case.example)()
    assert (tmp_path / "searches" / "tiny-0-size-100" / "search.json").exists()
    assert (told["resumed"], told["cost_table"] >= 0) == (False, True)
    assert frontier.planned(goal, case, options, tmp_path, 0.0)[1]["resumed"] is True


@pytest.mark.parametrize("name", list(frontier.GOALS))
def test_single_techniques_are_pipelines(name: str) -> None:
    goal = frontier.GOALS[name]
    for pipeline in {**goal.singles, **goal.trained(60)}.values():
        assert parse_pipeline(f"{pipeline},{INT8_PIPELINE}")


def test_single_techniques_can_be_trained_as_long_as_a_search() -> None:
    goal = frontier.GOALS["resnet56"]
    trained = goal.trained(1800)
    distilled = "distill{augment=images,seconds=1800}"
    assert trained["prune 50%, distill"] == f"prune{{flops=0.5,what=[channels]}},{distilled}"
    heads = frontier.GOALS["minilm"].trained(1800)["prune 50%, heads, distill"]
    assert "distill{seconds=1800}" in heads
    assert not any(name.startswith("int4") for name in frontier.GOALS["minilm"].trained(1800))
    assert not set(frontier.GOALS["resnet20"].trained(60)) & set(frontier.GOALS["resnet20"].singles)


def test_table_and_picture(tmp_path: Path) -> None:
    def entry(peer: str, variant: str, ms: float, quality: float, size: int | None) -> Entry:
        return Entry(peer, variant, "best", 1.0, size, {}, [], quality=quality, rounds_ms=[ms, ms * 1.1, ms * 0.9])

    cases = [CaseResult("net", "A net", 1, "top-1 %", 100, [
        entry("eager", "fp32", 4.0, 93.0, None), entry("artifact", "int8", 0.4, 92.9, 900_000),
        entry("artifact", "plan", 0.2, 92.1, 300_000), entry("artifact", "front 0 (plan 2)", 0.3, 92.5, 500_000),
    ])]
    results = Results("python -m benchmarks.frontier", machine.describe(1), 3, 0.1, False, cases)
    text = picture.table(results)
    assert "| net | mcomp plan | 92.10 | 0.2 | 20.00 | 2.00 | 300,000 |" in text
    pytest.importorskip("matplotlib")
    drawn = picture.draw(results, tmp_path / "front.png")
    assert drawn.stat().st_size > 5_000
