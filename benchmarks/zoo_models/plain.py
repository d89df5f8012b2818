"""Models of torch alone: recurrent layers, the stock transformer, small CNNs and MLPs, outputs of every container."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.zoo import Entry, Inputs


def _randn(*shape: int) -> Callable[[int], Inputs]:
    def make(batch: int) -> Inputs:
        import torch

        return (torch.randn(batch, *shape),), {}

    return make


def _stock_transformer_inputs(batch: int) -> Inputs:
    import torch

    padding = torch.zeros(batch, 9, dtype=torch.bool)
    padding[::2, 7:] = True
    return (torch.randn(batch, 9, 32),), {"src_key_padding_mask": padding}


def _lstm() -> Any:
    from torch import nn

    return nn.LSTM(16, 24, num_layers=2, bidirectional=True, batch_first=True)


def _gru() -> Any:
    from torch import nn

    return nn.GRU(16, 24, num_layers=2, batch_first=True)


def _rnn() -> Any:
    from torch import nn

    return nn.RNN(16, 24, batch_first=True)


def _stock_encoder() -> Any:
    from torch import nn

    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False)


def _stock_transformer() -> Any:
    from torch import nn

    return nn.Transformer(32, 4, 1, 1, 64, batch_first=True)


def _pair(batch: int) -> Inputs:
    import torch

    return (torch.randn(batch, 9, 32), torch.randn(batch, 5, 32)), {}


def _mlp() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(20, 64), nn.GELU(), nn.LayerNorm(64), nn.Dropout(0.1), nn.Linear(64, 10), nn.LogSoftmax(-1)
    )


def _cnn() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, groups=16, dilation=2, padding="same"),
        nn.Conv2d(16, 32, 1),
        nn.BatchNorm2d(32),
        nn.Hardswish(),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 32, 3, stride=2, groups=4, padding=1),
        nn.GroupNorm(4, 32),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def _autoencoder() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1),
        nn.PReLU(8),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ReflectionPad2d(1),
        nn.Conv2d(8, 1, 3),
        nn.PixelUnshuffle(2),
        nn.Sigmoid(),
    )


def _temporal() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv1d(4, 16, 5, padding=4, dilation=2, padding_mode="circular"),
        nn.BatchNorm1d(16),
        nn.ELU(),
        nn.MaxPool1d(2, ceil_mode=True),
        nn.ConvTranspose1d(16, 8, 4, stride=2),
        nn.Softplus(),
        nn.AdaptiveMaxPool1d(3),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.Softmax(-1),
    )


def _volume() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Mish(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(4 * 27, 6)
    )


def _torch(name: str, family: str, model: Callable[[], Any], inputs: Callable[[int], Inputs]) -> Entry:
    return Entry(name, family, model, inputs, library="torch")


ENTRIES: list[Entry] = [
    _torch("torch-lstm", "recurrent", _lstm, _randn(11, 16)),
    _torch("torch-gru", "recurrent", _gru, _randn(11, 16)),
    _torch("torch-rnn", "recurrent", _rnn, _randn(11, 16)),
    _torch("torch-transformer-encoder", "text-encoder", _stock_encoder, _stock_transformer_inputs),
    _torch("torch-transformer", "encoder-decoder", _stock_transformer, _pair),
    _torch("torch-mlp", "mlp", _mlp, _randn(20)),
    _torch("torch-cnn", "vision", _cnn, _randn(3, 16, 16)),
    _torch("torch-autoencoder", "vision", _autoencoder, _randn(1, 16, 16)),
    _torch("torch-temporal", "time-series", _temporal, _randn(4, 20)),
    _torch("torch-volume", "vision", _volume, _randn(1, 6, 6, 6)),
]
