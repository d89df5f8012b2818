"""A tenth of the zoo, one of each kind: captured whole, native, right at three batch sizes, and the text parses back."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import zoo
from benchmarks.zoo_check import Interpreted, check, compare
from mcomp.capture import capture

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
    assert row.good, row.explained()


def test_the_zoo_has_the_required_breadth() -> None:
    entries = list(zoo.entries())
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names)) >= 60
    families = {entry.family for entry in entries}
    assert {"text-encoder", "decoder", "state-space", "encoder-decoder", "vision", "audio", "time-series"} <= families
    with pytest.raises(KeyError, match="no model"):
        zoo.find("nothing")


def test_a_cache_of_symbolic_length() -> None:
    pytest.importorskip("transformers")
    from benchmarks.zoo_models.decoders import filled_cache

    model = zoo.find("gpt2-cache").build()
    args, kwargs = filled_cache(2, 4, 8, past=5)(2)
    found = capture(model, args, kwargs, dynamic={"past_key_values": {2: "P"}, "attention_mask": {1: "T"}})
    assert found.program is not None and kwargs["past_key_values"].get_seq_length() == 5
    for batch, past in ((3, 9), (1, 1)):
        assert compare(model, Interpreted(found.program), *filled_cache(2, 4, 8, past)(batch)) <= 1e-5
