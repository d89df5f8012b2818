"""Whether a graph that was traced for sizes of two or more is right for sizes of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mcomp.capture.export import Exported
from mcomp.capture.shim import Shim
from mcomp.capture.sizes import Choice
from mcomp.errors import McompError
from mcomp.ir.graph import Graph
from mcomp.ops.encoded import weight_tensor
from mcomp.ops.evaluate import run_graph


def holds_at_one(graph: Graph, shim: Shim, tensors: Sequence[torch.Tensor], exported: Exported) -> bool:
    """Lower the bounds of sizes that were taken to be two or more, where results at one agree with the model's.

    First all of them at one, then the batch alone; sizes that fail keep two as their lower bound. Returns whether the
    graph serves the example.
    """
    attempt, choice = exported.attempt, exported.choice
    names = {size.name for size in choice.values() if graph.symbols.get(size.name) is not None}
    if attempt.oblivious or not names:
        return True
    for chosen in (names, names & {"B"}):
        if chosen and _agrees(graph, shim, tensors, {place: s for place, s in choice.items() if s.name in chosen}):
            for name in chosen:
                graph.symbols[name] = replace(graph.symbols[name], low=1)
            break
    ones = {size.name for (tensor, axis), size in choice.items() if tensors[tensor].shape[axis] == 1}
    return all(graph.symbols[name].low <= 1 for name in ones & names)


def _agrees(graph: Graph, shim: Shim, tensors: Sequence[torch.Tensor], choice: Choice) -> bool:
    small = list(tensors)
    for tensor, axis in choice:
        small[tensor] = small[tensor].narrow(axis, 0, 1)
    initial = [graph.store.get(spec.initial) for spec in graph.input_specs if spec.kind == "state"]
    states: list[Any] = [weight_tensor(weight) for weight in initial]
    symbols = dict(graph.symbols)
    try:
        graph.symbols.update({size.name: replace(symbols[size.name], low=1) for size in choice.values()})
        with restored(shim, bool(states)), torch.no_grad():
            expected = shim(*(one.clone() for one in small))
        found = run_graph(graph, [*(one.clone() for one in small), *(one.clone() for one in states)])
    except (McompError, RuntimeError, ValueError, IndexError, TypeError):
        return False  # the model, or the graph, does not take a size of one
    finally:
        graph.symbols.update(symbols)
    results = [one for one, spec in zip(found, graph.output_specs, strict=True) if spec.kind == "result"]
    return all(_close(a, b) for a, b in zip(expected, results, strict=True))


def _close(expected: Any, found: torch.Tensor) -> bool:
    wanted = torch.as_tensor(expected)
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    return torch.allclose(wanted, found, rtol=1e-3, atol=1e-4, equal_nan=True)


@contextmanager
def restored(model: nn.Module, parameters: bool) -> Iterator[None]:
    """Buffers, and parameters if asked for, afterwards are as before."""
    kept = [*model.buffers(), *(model.parameters() if parameters else ())]
    before = [(one, one.detach().clone()) for one in kept]
    try:
        yield
    finally:
        with torch.no_grad():
            for one, value in before:
                if one.shape == value.shape:
                    one.copy_(value)
