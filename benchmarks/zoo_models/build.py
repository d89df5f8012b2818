"""Helpers that the families share: a model from a configuration, and inputs of the usual kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.zoo import Entry, Inputs

if TYPE_CHECKING:
    import torch
    from torch import nn

VOCABULARY = 99
LENGTH = 12


def hub_model(
    model: str, config: str, after: Callable[[nn.Module], None] | None = None, **options: Any
) -> Callable[[], nn.Module]:
    """A builder of the transformers class `model` from the configuration class `config` with `options`."""

    def make() -> nn.Module:
        import transformers

        config_class = getattr(transformers, config)
        made: nn.Module = getattr(transformers, model)(
            config_class(**{k: v() if callable(v) else v for k, v in options.items()})
        )
        if after is not None:
            after(made)
        return made

    return make


def token_ids(batch: int, length: int = LENGTH, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """int64 [batch, length] from 3 up to `vocabulary`: the ids below three are special in many models."""
    import torch

    return torch.randint(3, vocabulary, (batch, length))


def padding_mask(batch: int, length: int = LENGTH, side: str = "right") -> torch.Tensor:
    """int64 [batch, length] of ones, with up to three zeros at one side of every other row."""
    import torch

    mask = torch.ones(batch, length, dtype=torch.int64)
    for row in range(0, batch, 2):
        padded = slice(length - 3, length) if side == "right" else slice(0, 3)
        mask[row, padded] = 0
    return mask


def tokens(
    length: int = LENGTH, mask: str | None = "right", vocabulary: int = VOCABULARY, **fixed: Any
) -> Callable[[int], Inputs]:
    """Inputs `input_ids` and, unless `mask` is None, `attention_mask` padded on that side; `fixed` is passed on."""

    def make(batch: int) -> Inputs:
        kwargs: dict[str, Any] = {"input_ids": token_ids(batch, length, vocabulary)}
        if mask is not None:
            kwargs["attention_mask"] = padding_mask(batch, length, mask)
        return (), kwargs | fixed

    return make


def images(size: int = 32, channels: int = 3, name: str = "pixel_values", **fixed: Any) -> Callable[[int], Inputs]:
    """Inputs `pixel_values` f32 [batch, channels, size, size]."""

    def make(batch: int) -> Inputs:
        import torch

        return (), {name: torch.randn(batch, channels, size, size)} | fixed

    return make


def waves(samples: int, name: str = "input_values", **fixed: Any) -> Callable[[int], Inputs]:
    """Inputs `input_values` f32 [batch, samples]."""

    def make(batch: int) -> Inputs:
        import torch

        return (), {name: torch.randn(batch, samples)} | fixed

    return make


def hub_entry(
    name: str, family: str, model: str, inputs: Callable[[int], Inputs], config: str | None = None, **options: Any
) -> Entry:
    """An entry for a transformers class; the configuration class defaults to `model` with its head's name cut off."""
    after = options.pop("after", None)
    return Entry(name, family, hub_model(model, config or config_name(model), after, **options), inputs)


HEADS = (
    "ForMaskedLM",
    "ForCausalLM",
    "LMHeadModel",
    "ForImageClassification",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForConditionalGeneration",
    "ForPrediction",
    "ForPreTraining",
    "ForCTC",
    "ForAudioClassification",
    "ForSemanticSegmentation",
    "ForQuestionAnswering",
    "WithLMHeadModel",
    "ForDepthEstimation",
    "ForObjectDetection",
    "ForSeq2SeqLM",
    "MTModel",
    "Model",
)


def config_name(model: str) -> str:
    """`BertForMaskedLM` -> `BertConfig`."""
    for head in HEADS:
        if model.endswith(head):
            return model.removesuffix(head) + "Config"
    return model + "Config"
