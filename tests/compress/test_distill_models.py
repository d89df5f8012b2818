"""distill on captured models: a transformer with masks and a network with grouped and depthwise convolutions."""

from typing import Any

import pytest
import torch
from torch import nn

from mcomp.capture import capture
from mcomp.ir import Graph, verify
from mcomp.manager import Context, PassManager
from mcomp.manager.defaults import CLEANUP
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.region import child_regions, residual_regions
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration

Batches = list[list[torch.Tensor]]


class Inverted(nn.Module):
    """x + project(depthwise(expand(x))), the last one grouped."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.project = nn.Conv2d(2 * channels, channels, 1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(torch.relu(self.depthwise(torch.relu(self.norm(self.expand(x))))))


def mobile() -> tuple[nn.Module, Batches]:
    blocks = nn.Sequential(*(Inverted(8) for _ in range(3)))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), blocks, *head)
    return model, [[torch.randn(6, 3, 8, 8)] for _ in range(3)]


def bert() -> tuple[nn.Module, Batches]:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
    mask = torch.ones(6, 8, dtype=torch.int64)
    mask[:3, 5:] = 0
    model = BertModel(config, add_pooling_layer=False)
    return model, [[torch.randint(0, 50, (6, 8)), mask] for _ in range(3)]


@pytest.fixture(scope="module", params=[(mobile, "2"), (bert, "encoder.layer")], ids=["mobile", "bert"])
def captured(request: pytest.FixtureRequest) -> tuple[Graph, Batches, str]:
    torch.manual_seed(0)
    make, path = request.param
    model, batches = make()
    program = capture(model.eval(), tuple(batches[0])).program
    assert program is not None
    PassManager(CLEANUP).run(program.graph, Context())
    return program.graph, batches, path


def test_blocks_are_found_by_path_and_by_structure(captured: tuple[Graph, Batches, str]) -> None:
    graph, _, path = captured
    modules = child_regions(graph, path)
    assert [r.name for r in modules] == [f"{path}.{i}" for i in range(3)]
    assert all(r.entry is not None and r.entry.type == r.exit.type for r in modules)
    blocks = residual_regions(graph)
    assert len(blocks) in (3, 6) and blocks[-1].exit is modules[-1].exit


@pytest.mark.parametrize(("pipeline", "rules"), [
    ("distill{region=PATH,student=shallower,ratio=0.6,STEPS}", {"distill"}),
    ("distill{region=PATH,student=narrower,STEPS}", {"distill"}),
    ("distill{region=PATH,split=residual,student=narrower,STEPS}", {"distill"}),
    ("prune{ratio=0.3},quantize{bits=8},distill{STEPS,features=0.5,scales=true}", {"prune", "quantize"}),
    ("prune{ratio=0.3},distill{split=residual,STEPS,mix=0.5}", {"prune"}),
])
def test_every_student_keeps_shapes_and_meaning(
    captured: tuple[Graph, Batches, str], pipeline: str, rules: set[str]
) -> None:
    dense, batches, path = captured
    graph = dense.clone()
    context = Context(calibration=Calibration(batches))
    text = pipeline.replace("PATH", f'"{path}"').replace("STEPS", "steps=12,rate=0.015,max_error=10.0")
    PassManager(text).run(graph, context)
    verify(graph)
    assert rules <= {entry.rule for entry in graph.ledger}, [str(r) for r in context.remarks]
    found: Any = [run_graph(graph, batch) for batch in batches]
    expected = [run_graph(dense, batch) for batch in batches]
    error = relative_error(found, expected)
    assert 0 < error < 0.5
