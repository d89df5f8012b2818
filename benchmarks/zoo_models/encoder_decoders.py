"""Encoder-decoders for text and speech."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.zoo import Entry, Inputs
from benchmarks.zoo_models.build import VOCABULARY, hub_entry, padding_mask, token_ids

BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def _pair(use_cache: bool = False) -> Callable[[int], Inputs]:
    def make(batch: int) -> Inputs:
        return (), {
            "input_ids": token_ids(batch),
            "attention_mask": padding_mask(batch),
            "decoder_input_ids": token_ids(batch, 7),
            "use_cache": use_cache,
        }

    return make


def _speech(name: str, channels_first: bool, width: int, frames: int) -> Callable[[int], Inputs]:
    def make(batch: int) -> Inputs:
        import torch

        shape = (batch, width, frames) if channels_first else (batch, frames, width)
        return (), {name: torch.randn(shape), "decoder_input_ids": token_ids(batch, 7), "use_cache": False}

    return make


def _moonshine(batch: int) -> Inputs:
    import torch

    return (), {"input_values": torch.randn(batch, 1600), "decoder_input_ids": token_ids(batch, 5), "use_cache": False}


def _bart(name: str, model: str, **options: Any) -> Entry:
    return hub_entry(
        name, "encoder-decoder", model, options.pop("inputs", _pair()), options.pop("config", None), **(BART | options)
    )


def _t5(name: str, model: str, **options: Any) -> Entry:
    return hub_entry(
        name, "encoder-decoder", model, options.pop("inputs", _pair()), options.pop("config", None), **(T5 | options)
    )


ENTRIES: list[Entry] = [
    _t5("t5", "T5ForConditionalGeneration"),
    _t5("t5-gated", "T5ForConditionalGeneration", feed_forward_proj="gated-gelu"),
    _t5("t5-cache", "T5ForConditionalGeneration", inputs=_pair(use_cache=True)),
    _t5("mt5", "MT5ForConditionalGeneration"),
    _t5("umt5", "UMT5ForConditionalGeneration"),
    _t5("longt5", "LongT5ForConditionalGeneration", local_radius=4),
    _t5(
        "switch",
        "SwitchTransformersForConditionalGeneration",
        num_experts=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    _bart("bart", "BartForConditionalGeneration"),
    _bart("mbart", "MBartForConditionalGeneration"),
    _bart("m2m100", "M2M100ForConditionalGeneration"),
    _bart("marian", "MarianMTModel"),
    _bart("pegasus", "PegasusForConditionalGeneration"),
    _bart("blenderbot", "BlenderbotForConditionalGeneration"),
    hub_entry(
        "prophetnet",
        "encoder-decoder",
        "ProphetNetForConditionalGeneration",
        _pair(),
        vocab_size=VOCABULARY,
        hidden_size=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        ngram=2,
        num_buckets=8,
        relative_max_distance=16,
    ),
    _bart(
        "whisper",
        "WhisperForConditionalGeneration",
        inputs=_speech("input_features", True, 16, 40),
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=40,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    _bart(
        "speech-to-text",
        "Speech2TextForConditionalGeneration",
        inputs=_speech("input_features", False, 16, 40),
        input_feat_per_channel=16,
        input_channels=1,
        max_source_positions=40,
        max_target_positions=40,
        conv_channels=32,
        num_conv_layers=2,
        conv_kernel_sizes=(3, 3),
    ),
    hub_entry(
        "moonshine",
        "encoder-decoder",
        "MoonshineForConditionalGeneration",
        _moonshine,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
    ),
]
