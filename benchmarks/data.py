"""Loaders of the data folder: numpy arrays in the models' own input format."""

from __future__ import annotations

import io
import lzma
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.case import Array, Samples

CIFAR_MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
CIFAR_STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def cifar10(folder: Path, split: str, start: int = 0, count: int | None = None) -> Samples:
    """Images ``f32[N, 3, 32, 32]``, normalized, and labels of ``test``, ``calib`` or ``train20k``.

    The file is a sprite of 32x32 tiles, 100 a row.
    """
    from PIL import Image

    labels = np.load(folder / "cifar10" / f"{split}_labels.npy").astype(np.int64)
    sprite = np.asarray(Image.open(folder / "cifar10" / f"{split}.webp").convert("RGB"))
    tiles = sprite.reshape(sprite.shape[0] // 32, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    stop = len(labels) if count is None else min(start + count, len(labels))
    pixels = tiles[start:stop].transpose(0, 3, 1, 2).astype(np.float32) / 255.0
    return Samples(((pixels - CIFAR_MEAN) / CIFAR_STD,), labels[start:stop])


def imagenet_sample(folder: Path, classes: Array) -> Samples:
    """Images ``f32[N, 3, 224, 224]``, scaled as EfficientNet-Lite wants, of the given class ids (one photo a class)."""
    from PIL import Image

    images = []
    with zipfile.ZipFile(folder / "imagenet1k_sample" / "images_256.zip") as archive:
        names = sorted(archive.namelist())
        for index in classes:
            picture = Image.open(io.BytesIO(archive.read(names[index]))).convert("RGB").crop((16, 16, 240, 240))
            images.append(((np.asarray(picture, np.float32) - 127.0) / 128.0).transpose(2, 0, 1))
    return Samples((np.stack(images),), classes.astype(np.int64))


def sst2(folder: Path, split: str, count: int | None = None) -> tuple[list[str], Array]:
    """Sentences and labels ``i64[N]`` (1: positive) of ``train``, ``dev`` or ``test``."""
    with lzma.open(folder / "sst2" / f"sst2.{split}.txt.xz", "rt", encoding="latin1") as lines:
        rows = [(int(line[0]), line[2:].strip()) for line in lines][:count]
    return [text for _, text in rows], np.array([label for label, _ in rows], np.int64)


def stsb_pairs(folder: Path, split: str, count: int | None = None) -> tuple[list[str], list[str], Array]:
    """First sentences, second sentences and similarity ``f64[P]`` of ``train``, ``dev`` or ``test``."""
    path = folder / "stsb" / f"sts-{split}.tsv.xz"
    with lzma.open(path, "rt", encoding="utf8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines][:count]
    return [row[5] for row in rows], [row[6] for row in rows], np.array([float(row[4]) for row in rows])
