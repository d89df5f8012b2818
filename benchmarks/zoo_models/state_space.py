"""State-space, recurrent and hybrid language models."""

from __future__ import annotations

from benchmarks.zoo import Entry
from benchmarks.zoo_models.build import VOCABULARY, hub_entry, tokens
from benchmarks.zoo_models.decoders import GROUPED, SMALL

UNMASKED = tokens(mask=None, use_cache=False)

ENTRIES: list[Entry] = [
    hub_entry(
        "mamba",
        "state-space",
        "MambaForCausalLM",
        UNMASKED,
        vocab_size=VOCABULARY,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
    ),
    hub_entry(
        "mamba2",
        "state-space",
        "Mamba2ForCausalLM",
        UNMASKED,
        vocab_size=VOCABULARY,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=4,
    ),
    hub_entry(
        "falcon-mamba",
        "state-space",
        "FalconMambaForCausalLM",
        UNMASKED,
        vocab_size=VOCABULARY,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
    ),
    hub_entry(
        "rwkv",
        "state-space",
        "RwkvForCausalLM",
        UNMASKED,
        vocab_size=VOCABULARY,
        hidden_size=32,
        attention_hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
    ),
    hub_entry(
        "recurrent-gemma",
        "state-space",
        "RecurrentGemmaForCausalLM",
        UNMASKED,
        **(GROUPED | {"lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3, "head_dim": 8}),
    ),
    hub_entry(
        "jamba",
        "state-space",
        "JambaForCausalLM",
        UNMASKED,
        **(
            GROUPED
            | {
                "num_hidden_layers": 4,
                "attn_layer_period": 2,
                "attn_layer_offset": 1,
                "expert_layer_period": 2,
                "expert_layer_offset": 1,
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "mamba_d_state": 8,
                "mamba_dt_rank": 4,
                "use_mamba_kernels": False,
            }
        ),
    ),
    hub_entry(
        "bamba",
        "state-space",
        "BambaForCausalLM",
        UNMASKED,
        **(
            GROUPED
            | {
                "mamba_n_heads": 8,
                "mamba_d_head": 8,
                "mamba_d_state": 8,
                "mamba_n_groups": 1,
                "mamba_chunk_size": 4,
                "attn_layer_indices": [1],
            }
        ),
    ),
    hub_entry(
        "qwen3-next",
        "state-space",
        "Qwen3NextForCausalLM",
        UNMASKED,
        **(
            GROUPED
            | {
                "head_dim": 8,
                "layer_types": ["linear_attention", "full_attention"],
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
                "shared_expert_intermediate_size": 16,
            }
        ),
    ),
    hub_entry(
        "lfm2",
        "state-space",
        "Lfm2ForCausalLM",
        UNMASKED,
        **(GROUPED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    ),
    hub_entry(
        "zamba2",
        "state-space",
        "Zamba2ForCausalLM",
        UNMASKED,
        **(
            SMALL
            | {
                "num_key_value_heads": 4,
                "num_hidden_layers": 3,
                "layers_block_type": ["mamba", "hybrid", "mamba"],
                "mamba_d_state": 8,
                "mamba_headdim": 8,
                "n_mamba_heads": 8,
                "mamba_ngroups": 1,
                "chunk_size": 4,
                "attention_head_dim": 16,
                "num_mem_blocks": 1,
            }
        ),
    ),
]
