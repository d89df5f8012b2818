"""The networks of the GPU benchmark, with random weights where no package holds trained ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Network:
    """A model in eval mode and its inputs for a batch; `note` says what the weights are."""

    name: str
    module: nn.Module
    inputs: Callable[[int], Inputs]
    note: str = "random weights"


class Hidden(nn.Module):
    """The last hidden state of a transformers model, as a plain tensor."""

    def __init__(self, model: nn.Module, key: str) -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(**{self.key: x}).last_hidden_state
        return found


class Block(nn.Module):
    """One decoder layer of a Llama model with its rotary embedding."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

        self.layer = LlamaDecoderLayer(config, 0)
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1], device=x.device)[None]
        found = self.layer(x, position_embeddings=self.rotary(x, places))
        return found[0] if isinstance(found, tuple) else found


def _tokens(length: int, vocabulary: int) -> Callable[[int], Inputs]:
    return lambda batch: (torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(0)),)


def _images(size: int) -> Callable[[int], Inputs]:
    return lambda batch: (torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)),)


def minilm(small: bool) -> Network:
    from transformers import BertConfig, BertModel

    if not small:
        from benchmarks.models import _minilm_module

        return Network("MiniLM", _Pooled(_minilm_module()), _tokens(128, 30000), "trained")
    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=100)
    return Network("MiniLM", Hidden(BertModel(config), "input_ids"), _tokens(10, 100))


class _Pooled(nn.Module):
    """Sentence vectors of sentences that have no padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(x, torch.ones_like(x))
        return found


def bert(small: bool) -> Network:
    from transformers import BertConfig, BertModel

    config = BertConfig() if not small else BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128, vocab_size=100
    )
    return Network("BERT-base", Hidden(BertModel(config), "input_ids"), _tokens(128 if not small else 9, config.vocab_size))


def resnet(small: bool) -> Network:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig() if not small else ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1])
    return Network("ResNet-50", Hidden(ResNetModel(config), "pixel_values"), _images(224 if not small else 32))


def vit(small: bool) -> Network:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig() if not small else ViTConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8
    )
    return Network("ViT-B/16", Hidden(ViTModel(config), "pixel_values"), _images(224 if not small else 32))


def llama(small: bool) -> Network:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_attention_heads=32, num_key_value_heads=8, num_hidden_layers=16,
        head_dim=64,
    ) if not small else LlamaConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1,
        head_dim=16,
    )
    config._attn_implementation = "sdpa"
    length = 128 if not small else 12
    width = config.hidden_size
    return Network("Llama 1B block", Block(config), lambda batch: (
        torch.randn(batch, length, width, generator=torch.Generator().manual_seed(0)),))


NETWORKS: dict[str, Callable[[bool], Network]] = {
    "minilm": minilm, "bert": bert, "resnet": resnet, "vit": vit, "llama": llama,
}


def build(name: str, *, small: bool) -> Network:
    """A network by name; the same weights every time."""
    torch.manual_seed(0)
    found = NETWORKS[name](small)
    found.module.eval()
    return found
