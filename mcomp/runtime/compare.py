"""Comparing two graphs value by value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.errors import CallError
from mcomp.ir.graph import Graph, Node

_HELP = "give two versions of one model, captured with the same arguments"


@dataclass(frozen=True)
class Difference:
    """One value of both graphs: its layer, name, and relative L2 error ||y - y0|| / ||y0||."""

    layer: str
    value: str
    error: float

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in decibels, -20 log10(error); infinite when equal, minus infinite for an
        infinite error."""
        return math.inf if self.error == 0 else -20.0 * math.log10(self.error)


def compare_graphs(first: Graph, second: Graph, inputs: Sequence[Any], *, every: bool = False) -> list[Difference]:
    """Interpret both graphs on the same torch tensors and compare values that have the same name and shape, in the order
    of `second`. Without `every`, only the last such value of each layer, and the outputs. The error of an output whose shape
    or kind of number differs is infinite.

    Passes keep the name of a value for what replaces it, so versions of one model can be compared. Raises CallError when
    the graphs take different arguments, or return another number of results.
    """
    if len(first.inputs) != len(second.inputs):
        counts = f"{len(first.inputs)} and {len(second.inputs)}"
        raise CallError(f"the graphs take {counts} inputs; they are not comparable", help=_HELP)
    if len(first.outputs) != len(second.outputs):
        counts = f"{len(first.outputs)} and {len(second.outputs)}"
        raise CallError(f"the graphs return {counts} outputs; they are not comparable", help=_HELP)
    expected = _values(first, inputs)
    rows: list[Difference] = []
    for node, name, value in _trace(second, inputs):
        if name in expected and expected[name].shape == value.shape:
            rows.append(Difference(node.loc.layer, name, _error(value, expected[name])))
    if not every:
        last = {r.layer or r.value: r for r in rows}
        rows = [r for r in rows if last[r.layer or r.value] is r]
    outputs = [
        Difference("(output)", value.name, _output_error(found, wanted))
        for value, found, wanted in zip(second.outputs, _outputs(second, inputs), _outputs(first, inputs), strict=True)
    ]
    return rows + outputs


def _trace(graph: Graph, inputs: Sequence[Any]) -> list[tuple[Node, str, Any]]:
    from mcomp.ops.encoded import decoded
    from mcomp.ops.evaluate import run_graph
    from mcomp.runtime.calibration import Calibration

    found: list[tuple[Node, str, Any]] = []

    def observe(node: Node, outputs: Sequence[Any]) -> None:
        if node.op.name not in ("const", "full"):
            for value, output in zip(node.results, outputs):
                dense = decoded(output)
                if hasattr(dense, "is_floating_point") and dense.is_floating_point():
                    found.append((node, value.name, dense))

    run_graph(graph, Calibration([]).inputs(graph, inputs), observe=observe)
    return found


def _values(graph: Graph, inputs: Sequence[Any]) -> dict[str, Any]:
    return {name: value for _, name, value in _trace(graph, inputs)}


def _outputs(graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    from mcomp.ops.evaluate import run_graph
    from mcomp.runtime.calibration import Calibration

    return list(run_graph(graph, Calibration([]).inputs(graph, inputs)))


def _output_error(value: Any, expected: Any) -> float:
    import torch

    from mcomp.ops.encoded import decoded

    found, wanted = (torch.as_tensor(decoded(one)) for one in (value, expected))
    kinds = [(one.shape, one.is_floating_point(), one.is_complex()) for one in (found, wanted)]
    return _error(found, wanted) if kinds[0] == kinds[1] else math.inf


def _error(value: Any, expected: Any) -> float:
    from mcomp.plan.quality import relative_error

    return relative_error([[value]], [[expected]])
