"""Decoders: learned, rotary and ALiBi positions, grouped queries, sliding windows, experts, caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.zoo import Entry, Inputs
from benchmarks.zoo_models.build import VOCABULARY, hub_entry, token_ids, tokens

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
PLAIN = tokens(use_cache=False)
LEFT = tokens(mask="left", use_cache=False)


def _decoder(name: str, model: str, base: dict[str, Any] | None = None, **options: Any) -> Entry:
    inputs = options.pop("inputs", PLAIN)
    return hub_entry(
        name, "decoder", model, inputs, options.pop("config", None), **((GROUPED if base is None else base) | options)
    )


def _gpt2(**options: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | options


def filled_cache(layers: int, heads: int, width: int, past: int = 5) -> Callable[[int], Inputs]:
    """One new token with a filled DynamicCache of `past` positions."""

    def make(batch: int) -> Inputs:
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(layers):
            cache.update(torch.randn(batch, heads, past, width), torch.randn(batch, heads, past, width), layer)
        return (), {
            "input_ids": token_ids(batch, 1),
            "past_key_values": cache,
            "use_cache": True,
            "attention_mask": torch.ones(batch, past + 1, dtype=torch.int64),
        }

    return make


def _static_cache(length: int, **config: Any) -> Callable[[int], Inputs]:
    """A prompt written into a StaticCache of `length` positions, at its start."""

    def make(batch: int) -> Inputs:
        import torch
        from transformers import LlamaConfig, StaticCache

        settings = LlamaConfig(**config)
        cache = StaticCache(config=settings, max_cache_len=length)
        cache.early_initialization(
            batch, settings.num_key_value_heads, settings.head_dim, torch.float32, torch.device("cpu")
        )
        return (), {
            "input_ids": token_ids(batch, 4),
            "past_key_values": cache,
            "use_cache": True,
            "cache_position": torch.arange(4),
            "position_ids": torch.arange(4)[None].expand(batch, 4),
        }

    return make


ROPE_SMALL = GROUPED | {"head_dim": 8}
EXPERTS = GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

ENTRIES: list[Entry] = [
    _decoder("gpt2", "GPT2LMHeadModel", _gpt2()),
    _decoder("gpt2-cache", "GPT2LMHeadModel", _gpt2(), inputs=filled_cache(2, 4, 8)),
    _decoder("gpt2-fills-cache", "GPT2LMHeadModel", _gpt2(), inputs=tokens(use_cache=True)),
    _decoder(
        "gpt-neo",
        "GPTNeoForCausalLM",
        SMALL | {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    ),
    _decoder("gptj", "GPTJForCausalLM", _gpt2(rotary_dim=4)),
    _decoder("codegen", "CodeGenForCausalLM", _gpt2(rotary_dim=4)),
    _decoder("gpt-neox", "GPTNeoXForCausalLM", SMALL),
    _decoder("gpt-bigcode", "GPTBigCodeForCausalLM", _gpt2()),
    _decoder("opt", "OPTForCausalLM", SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    _decoder("bloom", "BloomForCausalLM", SMALL | {"n_layer": 2, "n_head": 4}),
    _decoder("falcon", "FalconForCausalLM", SMALL | {"multi_query": True, "new_decoder_architecture": False}),
    _decoder(
        "falcon-alibi",
        "FalconForCausalLM",
        SMALL | {"alibi": True, "multi_query": False, "new_decoder_architecture": False},
    ),
    _decoder(
        "mpt",
        "MptForCausalLM",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    ),
    _decoder("llama", "LlamaForCausalLM", inputs=LEFT),
    _decoder("llama-cache", "LlamaForCausalLM", ROPE_SMALL, inputs=filled_cache(2, 2, 8)),
    _decoder("llama-static-cache", "LlamaForCausalLM", ROPE_SMALL, inputs=_static_cache(16, **ROPE_SMALL)),
    _decoder("mistral-window", "MistralForCausalLM", sliding_window=5),
    _decoder("ministral", "MinistralForCausalLM", ROPE_SMALL, sliding_window=5),
    _decoder("gemma", "GemmaForCausalLM", ROPE_SMALL),
    _decoder("gemma2", "Gemma2ForCausalLM", ROPE_SMALL, sliding_window=5, query_pre_attn_scalar=8),
    _decoder(
        "gemma3", "Gemma3ForCausalLM", ROPE_SMALL, config="Gemma3TextConfig", sliding_window=5, query_pre_attn_scalar=8
    ),
    _decoder("qwen2", "Qwen2ForCausalLM"),
    _decoder("qwen3", "Qwen3ForCausalLM", ROPE_SMALL),
    _decoder("phi", "PhiForCausalLM"),
    _decoder("phi3", "Phi3ForCausalLM"),
    _decoder("stablelm", "StableLmForCausalLM"),
    _decoder("starcoder2", "Starcoder2ForCausalLM", sliding_window=5),
    _decoder("cohere", "CohereForCausalLM"),
    _decoder("olmo2", "Olmo2ForCausalLM"),
    _decoder("granite", "GraniteForCausalLM"),
    _decoder("glm", "GlmForCausalLM", ROPE_SMALL),
    _decoder("smollm3", "SmolLM3ForCausalLM"),
    _decoder("persimmon", "PersimmonForCausalLM", SMALL),
    _decoder("nemotron", "NemotronForCausalLM"),
    _decoder("biogpt", "BioGptForCausalLM", SMALL),
    _decoder(
        "xglm",
        "XGLMForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "ffn_dim": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    _decoder("openai-gpt", "OpenAIGPTLMHeadModel", _gpt2(), inputs=tokens()),
    _decoder("ctrl", "CTRLLMHeadModel", _gpt2(dff=64)),
    _decoder("mixtral", "MixtralForCausalLM", EXPERTS, sliding_window=5),
    _decoder("qwen2-moe", "Qwen2MoeForCausalLM", EXPERTS, shared_expert_intermediate_size=32),
    _decoder("qwen3-moe", "Qwen3MoeForCausalLM", EXPERTS | {"head_dim": 8}),
    _decoder("olmoe", "OlmoeForCausalLM", EXPERTS),
    _decoder("gpt-oss", "GptOssForCausalLM", EXPERTS | {"head_dim": 8}, sliding_window=5),
    _decoder(
        "deepseek-v3",
        "DeepseekV3ForCausalLM",
        SMALL
        | {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_group": 2,
            "topk_group": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
]
