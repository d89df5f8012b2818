"""Text encoders: absolute, relative and rotary positions, local and factorized attention."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo import Entry, Inputs
from benchmarks.zoo_models.build import VOCABULARY, hub_entry, padding_mask, token_ids, tokens

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def _encoder(name: str, model: str, **options: Any) -> Entry:
    return hub_entry(
        name, "text-encoder", model, options.pop("inputs", tokens()), options.pop("config", None), **(SMALL | options)
    )


def _layout_inputs(batch: int) -> Inputs:
    import torch

    corner = torch.randint(0, 400, (batch, 12, 2))
    box = torch.cat([corner, corner + torch.randint(1, 300, (batch, 12, 2))], dim=-1)
    return (), {"input_ids": token_ids(batch), "bbox": box, "attention_mask": padding_mask(batch)}


ENTRIES: list[Entry] = [
    _encoder("bert", "BertForMaskedLM"),
    _encoder("bert-classifier", "BertForSequenceClassification", num_labels=3),
    _encoder("roberta", "RobertaForMaskedLM"),
    _encoder("camembert", "CamembertForTokenClassification"),
    _encoder("xlm-roberta", "XLMRobertaModel"),
    _encoder("distilbert", "DistilBertForSequenceClassification", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    _encoder("albert", "AlbertForMaskedLM", embedding_size=16),
    _encoder("electra", "ElectraForPreTraining", embedding_size=16),
    _encoder("mpnet", "MPNetForMaskedLM"),
    _encoder("deberta", "DebertaModel", relative_attention=True, pos_att_type="c2p|p2c", max_relative_positions=16),
    _encoder(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
        relative_attention=True,
        pos_att_type="c2p|p2c",
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        pooler_hidden_size=32,
    ),
    _encoder(
        "modernbert",
        "ModernBertForMaskedLM",
        num_hidden_layers=3,
        local_attention=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    _encoder("nomic-bert", "NomicBertModel"),
    _encoder("roformer", "RoFormerForMaskedLM", embedding_size=32),
    _encoder("esm", "EsmForMaskedLM", position_embedding_type="rotary", pad_token_id=1, mask_token_id=4),
    hub_entry(
        "xlnet",
        "text-encoder",
        "XLNetModel",
        tokens(),
        vocab_size=VOCABULARY,
        d_model=32,
        n_layer=2,
        n_head=4,
        d_inner=64,
        use_mems_eval=False,
    ),
    hub_entry(
        "funnel",
        "text-encoder",
        "FunnelForMaskedLM",
        tokens(),
        vocab_size=VOCABULARY,
        d_model=32,
        d_head=8,
        n_head=4,
        d_inner=64,
        block_sizes=[1, 1],
        num_decoder_layers=1,
    ),
    _encoder("longformer", "LongformerModel", attention_window=4, max_position_embeddings=66),
    _encoder("big-bird", "BigBirdModel", attention_type="original_full"),
    _encoder("squeezebert", "SqueezeBertModel", embedding_size=32, q_groups=2, k_groups=2, v_groups=2),
    _encoder("mobilebert", "MobileBertModel", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    _encoder("convbert", "ConvBertModel", embedding_size=32, conv_kernel_size=3),
    _encoder("fnet", "FNetModel", inputs=tokens(mask=None)),
    _encoder("ibert", "IBertModel"),
    _encoder("layoutlm", "LayoutLMModel", inputs=_layout_inputs, max_2d_position_embeddings=1024),
    _encoder(
        "canine",
        "CanineModel",
        inputs=tokens(length=16),
        downsampling_rate=2,
        num_hash_buckets=64,
        local_transformer_stride=8,
        max_position_embeddings=64,
    ),
    _encoder(
        "nystromformer",
        "NystromformerModel",
        inputs=tokens(mask=None),
        num_landmarks=4,
        segment_means_seq_len=12,
        conv_kernel_size=3,
    ),
    _encoder("rembert", "RemBertModel", input_embedding_size=16, output_embedding_size=16),
]
