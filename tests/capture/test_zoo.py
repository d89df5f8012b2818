"""A tenth of the zoo, one of each kind: captured whole, native, right at three batch sizes, and the text parses back."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import zoo
from benchmarks.zoo_check import check, table

MODELS = [
    "bert-classifier", "deberta-v2", "gpt2-cache", "llama-static-cache", "mistral-window", "mixtral", "mamba", "t5",
    "swin", "convnext", "mobilenet-v2", "segformer", "clip", "wav2vec2", "patchtst", "torch-lstm", "torch-cnn",
]


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    entry = zoo.find(name)
    if importlib.util.find_spec(entry.library) is None:
        pytest.skip(f"{entry.library} is not installed")
    row = check(entry)
    assert row.good, table([row])


def test_the_zoo_has_the_required_breadth() -> None:
    entries = list(zoo.entries())
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names)) >= 60
    families = {entry.family for entry in entries}
    assert {"text-encoder", "decoder", "state-space", "encoder-decoder", "vision", "audio", "time-series"} <= families
    with pytest.raises(KeyError, match="no model"):
        zoo.find("nothing")
