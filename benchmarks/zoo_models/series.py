"""Time series."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo import Entry, Inputs
from benchmarks.zoo_models.build import hub_entry

FORECAST: dict[str, Any] = {
    "prediction_length": 4,
    "context_length": 8,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 2,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "scaling": "mean",
}


def _forecast(batch: int) -> Inputs:
    import torch

    past = 8 + 3
    return (), {
        "past_values": torch.randn(batch, past).abs(),
        "past_time_features": torch.randn(batch, past, 2),
        "past_observed_mask": torch.ones(batch, past),
        "future_values": torch.randn(batch, 4).abs(),
        "future_time_features": torch.randn(batch, 4, 2),
        "use_cache": False,
    }


def _patches(batch: int) -> Inputs:
    import torch

    return (), {"past_values": torch.randn(batch, 32, 3)}


ENTRIES: list[Entry] = [
    hub_entry("time-series-transformer", "time-series", "TimeSeriesTransformerModel", _forecast, **FORECAST),
    hub_entry("informer", "time-series", "InformerModel", _forecast, **FORECAST),
    hub_entry(
        "autoformer",
        "time-series",
        "AutoformerModel",
        _forecast,
        **(FORECAST | {"label_length": 2, "moving_average": 3}),
    ),
    hub_entry(
        "patchtst",
        "time-series",
        "PatchTSTForPrediction",
        _patches,
        num_input_channels=3,
        context_length=32,
        patch_length=4,
        patch_stride=4,
        prediction_length=8,
        d_model=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        loss="mse",
    ),
    hub_entry(
        "patchtsmixer",
        "time-series",
        "PatchTSMixerForPrediction",
        _patches,
        num_input_channels=3,
        context_length=32,
        patch_length=4,
        patch_stride=4,
        prediction_length=8,
        d_model=16,
        num_layers=2,
        loss="mse",
    ),
]
