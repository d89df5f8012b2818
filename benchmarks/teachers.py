"""Networks that no package brings, trained here on the data folder: MLPs on tables of numbers. Kept in a folder, by name and
recipe.

Features and splits are made here, too, so that every process has the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.case import Array, Samples, tensors
from mcomp.files import replacing

if TYPE_CHECKING:
    from torch import nn

SPLITS = 5
"""Random splits of Isolet."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C that logistic regression is tried with."""


@dataclass(frozen=True)
class Table:
    """Features f32[N, F] and labels i64[N]: to train on, to select on (a part of the training rows), and to test on.
    `views`: for a number, the features f32[N, F] of all rows to train on with their images looked at in another way."""

    train: Samples
    selection: Samples
    test: Samples
    views: Callable[[int], Array] | None = None

    @property
    def features(self) -> int:
        return int(self.train.inputs[0].shape[1])


def isolet(folder: Path, split: int) -> Table:
    """617 features, 26 spoken letters; a random quarter is the test set, a fifth of the rest is for selection. Features are
    scaled by what the training rows have."""
    found = np.load(folder / "tabular" / "isolet.npz")
    x, y = found["x"].astype(np.float32), found["y"].astype(np.int64).reshape(-1) - 1
    order = np.random.default_rng(split).permutation(len(x))
    test, rest = order[: len(x) // 4], order[len(x) // 4 :]
    mean, deviation = x[rest].mean(0), x[rest].std(0) + 1e-6
    x = (x - mean) / deviation
    some = len(rest) // 5
    return Table(*(Samples((x[rows],), y[rows]) for rows in (rest, rest[:some], test)))


def fashion(folder: Path, components: int = 100) -> Table:
    """Fashion-MNIST on its first principal components, of the training images; the last 2,000 of these are for selection.
    Other views of them are mirrored or not."""
    train, test = _pixels(folder, "train20k"), _pixels(folder, "test5k")
    mean = train[0].mean(0)
    _, vectors = np.linalg.eigh(np.cov(train[0] - mean, rowvar=False))
    basis = vectors[:, ::-1][:, :components].astype(np.float32)
    scale = ((train[0] - mean) @ basis).std()

    def features(pixels: Array) -> Array:
        return ((pixels - mean) @ basis / scale).astype(np.float32)

    x, z = features(train[0]), features(test[0])
    return Table(
        Samples((x,), train[1]), Samples((x[-2000:],), train[1][-2000:]), Samples((z,), test[1]),
        lambda seed: features(mirrored(train[0].reshape(-1, 28, 28), seed).reshape(len(x), -1)),
    )


def mirrored(images: Array, seed: int) -> Array:
    """Images [N, H, W], each mirrored or not."""
    chosen = np.random.default_rng(seed).random(len(images)) < 0.5
    return np.where(chosen[:, None, None], images[:, :, ::-1], images)


def _pixels(folder: Path, split: str) -> tuple[Array, Array]:
    from PIL import Image

    labels = np.load(folder / "fashion_mnist" / f"{split}_labels.npy").astype(np.int64)
    sprite = np.asarray(Image.open(folder / "fashion_mnist" / f"{split}.png").convert("L"))
    tiles = sprite.reshape(sprite.shape[0] // 28, 28, 100, 28).swapaxes(1, 2).reshape(-1, 784)[: len(labels)]
    return tiles.astype(np.float32) / 255.0, labels


def linear_score(table: Table) -> float:
    """Percent of the test set that multinomial logistic regression gets right. Its C is the one of `PENALTIES` that is best
    on the selection rows when fitted without them; then it is fitted on all training rows."""
    from sklearn.linear_model import LogisticRegression

    def right(penalty: float, rows: Samples, others: Samples) -> float:
        model = LogisticRegression(C=penalty, max_iter=1000).fit(rows.inputs[0], rows.labels)
        return 100.0 * float(np.mean(model.predict(others.inputs[0]) == others.labels))

    rows = training_rows(table)
    best = max(PENALTIES, key=lambda penalty: right(penalty, rows, table.selection))
    return right(best, table.train, table.test)


def teacher(name: str, table: Table, widths: Sequence[int], kept: Path, *, epochs: int, dropout: float) -> nn.Module:
    """An MLP with these inner widths, trained on the labels, or taken from the folder `kept`."""
    import torch
    from safetensors.torch import load_file, save_file
    from torch import nn

    sizes = (table.features, *widths, _classes(table))
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Dropout(dropout if i else dropout / 4), nn.Linear(inputs, outputs), nn.ReLU()]
    torch.manual_seed(0)
    model = nn.Sequential(*layers[:-1])
    rows = training_rows(table)
    wide = max(sizes) >= 2000
    recipe = {
        "epochs": epochs, "rate": 4e-4 if wide else 1e-3, "decay": 1e-2, "batch": 256 if wide else 128, "smoothing": 0.05,
    }
    seen = {"sizes": sizes, "dropout": dropout} | ({} if table.views is None else {"views": True})
    assert rows.labels is not None
    digest = digest_of({**recipe, **seen}, [rows.labels])
    path = kept / f"{name}-{digest}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        _fit(model, table, **recipe)
        kept.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(model.state_dict(), temporary)
    return nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.Dropout))).eval()


def digest_of(recipe: Mapping[str, object], arrays: Sequence[Array]) -> str:
    """What is kept under the same name is told apart by: options of the training, and what tells the data."""
    h = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for array in arrays:
        h.update(f"{array.dtype}{array.shape}".encode())
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()[:12]


def _classes(table: Table) -> int:
    assert table.train.labels is not None
    return int(table.train.labels.max()) + 1


def _fit(
    model: nn.Module, table: Table, *, epochs: int, rate: float, decay: float, batch: int, smoothing: float
) -> nn.Module:
    import torch
    from torch.nn import functional

    rows = training_rows(table)
    assert rows.labels is not None
    x, y = tensors([rows.inputs[0], rows.labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        if table.views is not None:
            (x,) = tensors([view_of(table, epoch)])
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) // batch * batch, batch):
            chosen = order[start : start + batch]
            optimizer.zero_grad()
            functional.cross_entropy(model(x[chosen]), y[chosen], label_smoothing=smoothing).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def training_rows(table: Table) -> Samples:
    """The rows to train on that are not for selection."""
    keep = _kept(table)
    assert table.train.labels is not None
    return Samples((table.train.inputs[0][keep],), table.train.labels[keep])


def view_of(table: Table, seed: int) -> Array:
    """The features of these rows in another view."""
    assert table.views is not None
    return table.views(seed)[_kept(table)]


def unlabelled(table: Table, views: int = 1) -> Array:
    """Features to calibrate and to distil with: of the rows to train on, and of so many views of them, if there are any."""
    others = [view_of(table, seed) for seed in range(views)] if table.views is not None else []
    return np.concatenate([training_rows(table).inputs[0], *others])


def _kept(table: Table) -> Array:
    held = {row.tobytes() for row in table.selection.inputs[0]}
    return np.array([row.tobytes() not in held for row in table.train.inputs[0]])
