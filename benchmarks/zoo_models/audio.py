"""Audio encoders over waveforms and spectrograms."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo import Entry, Inputs
from benchmarks.zoo_models.build import VOCABULARY, hub_entry, waves

WAVE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [8, 3, 3],
    "conv_stride": [4, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 40,
}


def _wave(name: str, model: str, **options: Any) -> Entry:
    return hub_entry(
        name, "audio", model, options.pop("inputs", waves(400)), options.pop("config", None), **(WAVE | options)
    )


def _spectrogram(batch: int) -> Inputs:
    import torch

    return (), {"input_values": torch.randn(batch, 24, 16)}


def _features(width: int, frames: int) -> Any:
    def make(batch: int) -> Inputs:
        import torch

        return (), {"input_features": torch.randn(batch, frames, width)}

    return make


def _masked_wave(batch: int) -> Inputs:
    import torch

    mask = torch.ones(batch, 400, dtype=torch.int64)
    mask[::2, 300:] = 0
    return (), {"input_values": torch.randn(batch, 400), "attention_mask": mask}


def _codec(batch: int) -> Inputs:
    import torch

    return (), {"input_values": torch.randn(batch, 1, 320)}


def _phonemes(batch: int) -> Inputs:
    import torch

    return (), {"input_ids": torch.randint(3, 38, (batch, 10)), "speaker_id": None}


ENTRIES: list[Entry] = [
    _wave("wav2vec2", "Wav2Vec2ForCTC"),
    _wave(
        "wav2vec2-masked", "Wav2Vec2Model", inputs=_masked_wave, feat_extract_norm="layer", do_stable_layer_norm=True
    ),
    _wave(
        "wav2vec2-conformer", "Wav2Vec2ConformerModel", position_embeddings_type="rotary", conv_depthwise_kernel_size=3
    ),
    _wave("hubert", "HubertModel"),
    _wave("wavlm", "WavLMModel", num_buckets=16, max_bucket_distance=32),
    _wave("sew", "SEWModel", squeeze_factor=2),
    _wave("unispeech-sat", "UniSpeechSatModel"),
    _wave("data2vec-audio", "Data2VecAudioModel", num_conv_pos_embeddings=2, conv_pos_kernel_size=5),
    hub_entry(
        "ast",
        "audio",
        "ASTForAudioClassification",
        _spectrogram,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        patch_size=4,
        max_length=24,
        num_mel_bins=16,
        frequency_stride=4,
        time_stride=4,
        num_labels=5,
    ),
    hub_entry(
        "wav2vec2-bert",
        "audio",
        "Wav2Vec2BertModel",
        _features(16, 20),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        feature_projection_input_dim=16,
        conv_depthwise_kernel_size=3,
        left_max_position_embeddings=8,
        right_max_position_embeddings=4,
    ),
    hub_entry(
        "encodec",
        "audio",
        "EncodecModel",
        _codec,
        num_filters=8,
        hidden_size=16,
        codebook_size=32,
        codebook_dim=16,
        num_residual_layers=1,
        upsampling_ratios=[4, 2],
        target_bandwidths=[12.0],
        sampling_rate=16000,
        norm_type="weight_norm",
        num_lstm_layers=1,
    ),
    hub_entry(
        "seamless-m4t-v2-encoder",
        "audio",
        "SeamlessM4Tv2ForSpeechToText",
        lambda batch: _speech_to_text(batch),
        config="SeamlessM4Tv2Config",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        speech_encoder_layers=1,
        speech_encoder_attention_heads=4,
        speech_encoder_intermediate_size=64,
        feature_projection_input_dim=16,
        max_position_embeddings=64,
        conv_depthwise_kernel_size=3,
        adaptor_kernel_size=4,
        adaptor_stride=4,
        num_adapter_layers=1,
        left_max_position_embeddings=8,
        right_max_position_embeddings=4,
        pad_token_id=0,
    ),
    hub_entry(
        "speecht5-encoder",
        "audio",
        "SpeechT5ForSpeechToText",
        lambda batch: _speecht5(batch),
        config="SpeechT5Config",
        vocab_size=VOCABULARY,
        hidden_size=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        conv_dim=[16, 16],
        conv_kernel=[8, 3],
        conv_stride=[4, 2],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        max_speech_positions=64,
        max_text_positions=64,
    ),
]


def _speech_to_text(batch: int) -> Inputs:
    import torch

    return (), {
        "input_features": torch.randn(batch, 20, 16),
        "decoder_input_ids": torch.randint(3, VOCABULARY, (batch, 6)),
        "use_cache": False,
    }


def _speecht5(batch: int) -> Inputs:
    import torch

    return (), {
        "input_values": torch.randn(batch, 400),
        "decoder_input_ids": torch.randint(3, VOCABULARY, (batch, 6)),
        "use_cache": False,
    }
