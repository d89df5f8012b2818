"""Capture of one module as one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mcomp.capture import sizes, structure
from mcomp.capture.convert import convert, load_importers
from mcomp.capture.export import export
from mcomp.capture.ones import holds_at_one
from mcomp.capture.program import Call, CapturedProgram, Shape
from mcomp.capture.shim import Shim
from mcomp.capture.signature import Signature
from mcomp.capture.sizes import Choice
from mcomp.capture.structure import Path, Spec
from mcomp.capture.symbols import Unsupported
from mcomp.errors import CallError, CaptureError
from mcomp.ir.graph import Graph
from mcomp.ir.store import WeightStore


def capture_whole(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, dynamic: Any = None,
    others: Sequence[Call] = (), store: WeightStore | None = None, path: str = "",
) -> CapturedProgram:
    """A module as one graph. Raises CaptureError with the reasons when that cannot be."""
    load_importers()
    signature = Signature.of(model.forward)
    bound = signature.bind(args, kwargs)
    leaves: list[Any] = []
    arguments = structure.describe(bound, leaves)
    tensors = [example(leaf) for leaf in leaves]
    paths = list(structure.leaf_paths(arguments).values())
    shapes = tuple(tuple(t.shape) for t in tensors)
    observed, remarks = _observed(signature, arguments, shapes, others)
    choice = sizes.choose(shapes, paths, dynamic, observed)
    shim = Shim(model, signature, signature.given(args, kwargs), arguments)
    unsupported: list[str] = []
    for exported in _exported(shim, tensors, choice, unsupported):
        try:
            converted = convert(exported, "main", input_names(paths), store or WeightStore())
        except Unsupported as error:
            unsupported.append(error.message)
            continue
        if not holds_at_one(converted.graph, shim, tensors, exported):
            unsupported.append("traced at two, it gives other results at one")
            continue
        remarks += [*exported.remarks, *dict.fromkeys(unsupported)]
        remarks += _fixed(converted.graph, choice, paths)
        seen = exported.seen
        return CapturedProgram(
            converted.graph, signature, arguments, seen.outputs, seen.rebinds, shapes, path, tuple(remarks),
            dict(converted.opaque), tuple(dict.fromkeys(converted.unchecked)),
        )
    raise CaptureError("; ".join(dict.fromkeys(unsupported)) or "the model cannot be exported whole")


def _exported(shim: Shim, tensors: Sequence[torch.Tensor], choice: Choice, unsupported: list[str]) -> Any:
    """Exported programs, best first. When none is left and some could not be converted, that is the reason given."""
    try:
        yield from export(shim, tensors, choice)
    except CaptureError as error:
        if unsupported:
            raise CaptureError("; ".join(dict.fromkeys(unsupported))) from error
        raise


def _observed(
    signature: Signature, arguments: Spec, shapes: Sequence[Shape], others: Sequence[Call]
) -> tuple[list[list[Shape]], list[str]]:
    """Shapes of the tensors in other calls that have the same structure; a remark for each that has another."""
    observed: list[list[Shape]] = []
    remarks: list[str] = []
    for args, kwargs in others:
        leaves: list[Any] = []
        try:
            structure.collect(arguments, signature.bind(args, kwargs), leaves)
        except CallError as error:
            remarks.append(f"another call has another structure: {error.message}")
            continue
        seen = [tuple(int(size) for size in leaf.shape) for leaf in leaves]
        if [len(shape) for shape in seen] == [len(shape) for shape in shapes]:
            observed.append(seen)
    return observed, remarks


def _fixed(graph: Graph, choice: Choice, paths: Sequence[Path]) -> list[str]:
    """A remark for each size that was to be symbolic and is not."""
    remarks = []
    for (tensor, axis), size in choice.items():
        found = graph.inputs[tensor].tensor.shape[axis]
        if isinstance(found, int):
            place = structure.path_text(paths[tensor])
            remarks.append(f"axis {axis} of {place} ({size.name}) is fixed at {found}: the model depends on its size")
    return remarks


def input_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Names of the graph's inputs: the path in the arguments, starred parameters left out."""
    names = []
    for path in paths:
        steps = [str(step) for step in path]
        if steps[0] in ("args", "kwargs") and len(steps) > 1 and not steps[1].isdigit():
            steps = steps[1:]
        names.append("_".join(steps))
    return tuple(names)


def example(leaf: Any) -> torch.Tensor:
    """A tensor for tracing: detached, contiguous."""
    value = torch.from_numpy(np.ascontiguousarray(leaf)) if isinstance(leaf, np.ndarray) else leaf
    return value.detach().contiguous()


