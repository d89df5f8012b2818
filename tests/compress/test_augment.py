"""Changes of inputs: same shapes, same kind, random by torch's generator; and what students make of changed copies."""

from typing import Any

import pytest
import torch
from torch import nn

from mcomp.ir import parse_graph
from mcomp.ir.printer import graph_text
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.distill import Distill
from mcomp.passes.compress.finetune import _row_bytes
from mcomp.passes.compress.training import tasks
from mcomp.passes.compress.training.augment import NAMED, augmentation, misfit
from mcomp.passes.compress.training.data import Samples
from mcomp.passes.compress.training.objective import Objective
from mcomp.passes.compress.training.tasks import Matching
from mcomp.passes.compress.training.trainer import Recipe, train
from mcomp.passes.compress.training.view import TrainableGraph
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration
from tests.compress.test_distill import MLP, distilled


@pytest.mark.parametrize("name", sorted(NAMED))
def test_shapes_stay_and_the_generator_decides(name: str) -> None:
    x = torch.randn(5, 3, 16, 16)
    torch.manual_seed(1)
    (first,) = augmentation(name)([x])
    torch.manual_seed(1)
    (again,) = augmentation(name)([x])
    assert first.shape == x.shape and torch.equal(first, again) and not torch.equal(first, x)


def test_images_are_mirrored_or_shifted_only() -> None:
    x = torch.arange(2.0 * 64).reshape(2, 1, 8, 8) + 1
    torch.manual_seed(0)
    (found,) = augmentation("images")([x])
    for before, after in zip(x, found):
        kept = set(after.flatten().tolist()) - {0.0}
        assert kept <= set(before.flatten().tolist()) and len(kept) >= 49


def test_mixtures_lie_between_samples() -> None:
    x = torch.tensor([[0.0], [1.0]])
    (found,) = augmentation("mix")([x])
    assert bool(((found >= 0) & (found <= 1)).all())


def test_what_does_not_fit_is_said() -> None:
    assert misfit("mix", [torch.zeros(2, 3, dtype=torch.int64)]) is not None
    assert misfit("images", [torch.zeros(2, 3)]) is not None
    assert misfit("mix", [torch.zeros(2, 3)]) is None
    assert misfit(lambda inputs: inputs, [torch.zeros(2, dtype=torch.int64)]) is None


def test_what_the_teacher_gave_is_kept_by_its_real_size() -> None:
    """Sizes that the graph leaves open are those of the data."""
    graph = parse_graph("""
    graph @g[B in 1.., H in 1..](%x: f32[B, 3, H, 8]) -> (f32[B, 3, H, 8]) {
      %y = relu %x : f32[B, 3, H, 8]
      return %y
    }""")
    batches = [[torch.zeros(4, 3, h, 8)] for h in (16, 32, 16)]
    assert _row_bytes(graph, batches) == 3 * 32 * 8 * 4


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CACHED_BYTES", 3 * 16 * 4 * 4)
    x = torch.randn(64, 8)
    found = Samples([[x]], [True], size=16, held=0.25, seed=0)
    found.cycle, known = 2, {}
    graph = parse_graph(MLP, generate=True)
    task = Matching(
        TrainableGraph(graph), found, Objective(("mse",)), teacher=lambda inputs: [inputs[0][:, :4].contiguous()],
        augment=augmentation("noise"), known=known,
    )
    train(task, found, Recipe(rate=1e-3, steps=12, checks=1))
    assert len(known) == 3 and found.steps_per_epoch == 3


def test_a_student_sees_changed_copies_of_what_there_is() -> None:
    few = Calibration([[torch.randn(24, 8, generator=torch.Generator().manual_seed(1))]])
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    errors = []
    for augment in (None, "noise", "mix"):
        graph = parse_graph(MLP, generate=True)
        x = [torch.randn(64, 8, generator=torch.Generator().manual_seed(9))]
        expected = run_graph(graph, x)
        one = Distill(student=student, steps=300, rate=5e-2, augment=augment, copies=12, loss="mse", max_error=5.0)
        PassManager([one]).run(graph, Context(calibration=few))
        errors.append(relative_error([run_graph(graph, x)], [expected]))
    assert min(errors[1:]) < errors[0]


def test_changed_copies_stay_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.passes.compress.substitute.CACHED_BYTES", 3 * 768 * (8 + 4) * 4)
    student = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    _, context, _ = distilled(MLP, [Distill(student=student, steps=2, rate=1e-3, augment="mix", max_error=50.0)])
    assert any("2 of 4 changed copies" in r.reason for r in context.remarks)


def test_changed_copies_of_the_whole_model_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcomp.passes.compress import substitute

    made, usual = [], substitute._grow

    def counted(*args: Any) -> str | None:
        made.append(args)
        return usual(*args)

    monkeypatch.setattr(substitute, "_grow", counted)
    data = Calibration([[torch.randn(64, 8, generator=torch.Generator().manual_seed(1))]])
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def trained(calibration: Calibration, **options: Any) -> str:
        graph = parse_graph(MLP, generate=True)
        one = Distill(**{"student": student, "steps": 5, "rate": 1e-3, "augment": "mix", "max_error": 50.0, **options})
        PassManager([one]).run(graph, Context(calibration=calibration))
        return graph_text(graph, digests=32)

    first, again = trained(data), trained(data)
    assert first == again == trained(Calibration(data.batches)) and len(made) == 2
    others: list[dict[str, Any]] = [{"augment": "noise"}, {"copies": 2}, {"batch": 16}, *([{"region": "body"}] * 2)]
    for number, options in enumerate(others):
        if "region" in options:
            options["student"] = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 64))
        trained(data, **options)
        assert len(made) == 3 + number
