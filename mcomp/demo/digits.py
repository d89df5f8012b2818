"""A small CNN on scikit-learn's handwritten digits: train, optimize, save, load, compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mcomp.demo.common import agree_without_torch, milliseconds, need, summary

SECONDS = 45.0
"""How long the search may take; what is left of it after planning is spent on training without labels."""


def main(output: str) -> int:
    """Run; returns 0 when the budget was met and the reloaded model agrees."""
    need("sklearn", "the digits demonstration")
    import numpy as np
    import torch

    import mcomp

    train, select, test = data()
    start = time.perf_counter()
    model = trained(*train)
    print(f"trained a CNN on {len(train[0])} digits in {time.perf_counter() - start:.1f} s")
    batches = [(train[0][i : i + 64],) for i in range(0, 512, 64)]
    example = test[0][:1]
    print("optimizing it; it may lose one point of accuracy, if that makes it faster ...", flush=True)
    fast = mcomp.optimize(
        model, (example,), calibration=batches, evaluate=lambda m: accuracy(m, *select), max_drop=0.01,
        time_limit=SECONDS,
    )
    report = fast.report()
    report.print()
    fast.save(output)
    size = Path(output).stat().st_size
    before, after = report.original, report.kept
    summary([
        ("accuracy on test digits", f"{accuracy(model, *test):.2%}", f"{accuracy(fast.module(), *test):.2%}"),
        ("latency, one digit, ms", milliseconds(before.latency_ms, 3), milliseconds(after.latency_ms, 3)),
        ("weights, KiB", f"{(before.weight_bytes or 0) / 1024:.0f}", f"{(after.weight_bytes or 0) / 1024:.0f}"),
        ("file, KiB", "", f"{size / 1024:.0f}"),
    ])
    with torch.inference_mode():
        answers = [np.asarray(fast(test[0][:64]))]
    agreed = agree_without_torch(output, [test[0][:64].numpy()], answers)
    print("the answers agree" if agreed else "the answers DIFFER")
    return 0 if agreed and report.within_budget else 1


def data() -> tuple[Any, Any, Any]:
    """(images, labels) for training, for selecting, and for testing; images are f32[N, 1, 8, 8] from 0 to 1."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(digits.target)[order]
    return (images[:1000], labels[:1000]), (images[1000:1400], labels[1000:1400]), (images[1400:], labels[1400:])


def network() -> Any:
    """A CNN with batch norm for 8x8 images."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10),
    )


def trained(images: Any, labels: Any, epochs: int = 8) -> Any:
    """The network after a few epochs of Adam; the same for the same seed."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: Any, images: Any, labels: Any) -> float:
    """Share of images that the model labels right."""
    import torch

    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())
