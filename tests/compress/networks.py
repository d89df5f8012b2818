"""Small networks of the kinds that pruning meets, captured and cleaned up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import CifarResNet, ResidualBlock, randomize
from mcomp.capture import capture
from mcomp.ir import Graph
from mcomp.manager import Context, PassManager
from mcomp.manager.defaults import CLEANUP
from mcomp.passes.compress.narrow import own_constants


class Mobile(nn.Module):
    """Inverted bottlenecks with depthwise and grouped convolutions, squeeze and excitation, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.grouped = nn.Conv2d(8, 16, 3, 1, 1, groups=2)
        self.many = nn.Conv2d(16, 32, 3, 1, 1, groups=8)
        self.up = nn.ConvTranspose2d(32, 12, 2, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y)
        x = F.relu(self.up(F.relu(self.many(F.relu(self.grouped(x))))))
        return self.head(x.mean((2, 3)))


class DenseBlock(nn.Module):
    """Layers that read all that came before, with batch norms in front, which nothing folds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, 1, 1) for i in range(3))
        self.head = nn.Linear(26 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class NextBlock(nn.Module):
    """A ConvNeXt block: depthwise convolution, layer norm over channels, two linear layers, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 2, 2)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.norm, self.inner, self.outer = nn.LayerNorm(12), nn.Linear(12, 40), nn.Linear(40, 12)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.outer(F.gelu(self.inner(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class Downsampled(nn.Module):
    """Residual blocks whose shortcut is a projection, a max pooling and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.one, self.two = ResidualBlock(8, 8, 1), ResidualBlock(8, 16, 2)
        self.head = nn.Linear(16 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        return self.head(self.two(self.one(x)).flatten(1))


class Gated(nn.Module):
    """A gated unit from one matrix that is cut in two, group norms, and heads of attention from one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(16, 48), nn.Linear(24, 16)
        self.qkv, self.merge = nn.Linear(16, 48), nn.Linear(16, 16)
        self.conv, self.norm, self.head = nn.Conv1d(16, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.Conv1d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, -1)
        x = x + self.out(F.silu(a) * b)
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = (x + self.merge(y)).transpose(1, 2)
        return self.head(F.relu(self.norm(self.conv(x))))


def _image(size: int = 8) -> tuple[Any, ...]:
    return (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)),)


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 9),
        nn.Sigmoid(), nn.Linear(9, 4),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "plain": (_plain, _image),
    "resnet-a": (lambda: CifarResNet(1), lambda: _image(8)),
    "resnet-projected": (Downsampled, _image),
    "mobile": (Mobile, _image),
    "dense": (DenseBlock, _image),
    "next": (NextBlock, _image),
    "gated": (Gated, lambda: (torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0)),)),
}


@functools.cache
def _cleaned(name: str) -> tuple[Graph, tuple[Any, ...]]:
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    return cleaned(randomize(build()), inputs()), inputs()


def network(name: str) -> tuple[Graph, list[Any]]:
    """The cleaned-up graph of a network, a copy of its own, and inputs."""
    graph, inputs = _cleaned(name)
    return graph.clone(), list(inputs)


@functools.cache
def _transformer(name: str) -> tuple[Graph, tuple[Any, ...]]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids, image = torch.randint(0, 40, (2, 6)), torch.randn(2, 3, 8, 8)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if name == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=8, patch_size=4), add_pooling_layer=False)
        return cleaned(model, (image,)), (image,)
    if name == "bert":
        model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=40, max_position_embeddings=16))
    elif name == "llama":
        config = transformers.LlamaConfig(**sizes, vocab_size=40, num_key_value_heads=2, use_cache=False)
        model = transformers.LlamaModel(config)
    elif name == "gpt2":
        model = transformers.GPT2Model(
            transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16, use_cache=False)
        )
    else:
        sizes = {"vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        model = transformers.T5EncoderModel(transformers.T5Config(**sizes, use_cache=False))
    return cleaned(model, (ids,)), (ids,)


def transformer(name: str) -> tuple[Graph, list[Any]]:
    """The cleaned-up graph of a tiny bert, vit, llama (with grouped queries), gpt2 or t5 encoder, a copy of its own, and
    inputs."""
    graph, inputs = _transformer(name)
    return graph.clone(), list(inputs)


def cleaned(module: nn.Module, args: tuple[Any, ...]) -> Graph:
    """A module captured and cleaned up, each use of a constant with a node of its own."""
    found = capture(module.eval(), args)
    assert found.program is not None, found.notes
    graph = found.program.graph
    PassManager(CLEANUP).run(graph, Context())
    with graph.edit("own") as editor:
        own_constants(graph, editor)
    return graph
