"""Whole models through `mcomp.optimize`: in the interpreter they compute what torch does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import mcomp
from tests.triton.harness import close, needs_triton

pytestmark = needs_triton


class Net(nn.Module):
    """A small network of convolutions with a residual, groups, pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 16, 1), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.body, self.head = nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((x + torch.relu(self.body(x))).mean((2, 3)))


def _names(fast: mcomp.CompiledModel, batch: int) -> list[str]:
    program = fast.only_program("looked at")
    kernels = program.executable.kernels(dict.fromkeys(program.graph.symbols, batch))
    return [k.name.rsplit("_", 1)[0] if k.native else f"torch:{k.name}" for k in kernels]


def test_a_multilayer_perceptron(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(33, 64), nn.GELU(), nn.Linear(64, 48), nn.LayerNorm(48), nn.ReLU(),
                          nn.Linear(48, 7)).eval()
    x = torch.randn(6, 33)
    fast = mcomp.optimize(model, (x,), target="cuda", progress=False)
    with torch.no_grad():
        close(fast(x), model(x))
        close(fast(x[:1]), model(x[:1]))
    assert _names(fast, 6) == ["linear", "linear", "layer_norm", "linear"]
    assert "@triton.jit" in fast.only_program("looked at").executable.source()
    fast.save(tmp_path / "model.mcomp")
    close(mcomp.load(tmp_path / "model.mcomp")(x), fast(x))


def test_a_network_of_convolutions() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 16, 16)
    fast = mcomp.optimize(model, (x,), target="cuda", progress=False)
    with torch.no_grad():
        close(fast(x), model(x))
    assert _names(fast, 2) == ["conv", "depthwise", "conv", "max_pool", "conv", "mean", "vector"]


def test_an_encoder_with_masks() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = BertModel(config)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(tokens, attention_mask=mask).last_hidden_state

    model = Encoder().eval()
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    tokens = torch.randint(0, 50, (2, 9))
    fast = mcomp.optimize(model, (tokens, mask), target="cuda", progress=False)
    with torch.no_grad():
        close(fast(tokens, mask), model(tokens, mask))
    names = _names(fast, 2)
    assert names.count("attention") == 1 and not any(n.startswith("torch:") for n in names)


@pytest.mark.parametrize(("pipeline", "kernel"), [
    ("quantize{bits=8}", "linear_i8"), ("quantize{bits=4,group=32}", "linear_i4"),
])
def test_quantized(pipeline: str, kernel: str) -> None:
    """What the pass quantized runs on the kernels for it, and gives what the quantized graph means."""
    from mcomp.ops.evaluate import run_graph

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 32)).eval(), torch.randn(16, 64)
    fast = mcomp.optimize(model, (x,), target="cuda", pipeline=pipeline, progress=False)
    assert _names(fast, 16).count(kernel) == 2
    close(fast(x), run_graph(fast.only_program("compared").graph, [x])[0], 5e-3)
