"""Narrowing: units of dimensions are cut out of constants, and the shapes of everything that they lie on shrink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mcomp.errors import IRError, PassError
from mcomp.ir.dims import Dim
from mcomp.ir.edit import Editor
from mcomp.ir.encoding import NM, Affine, BlockSparse, Dense, Encoding, Scaled
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.store import Weight
from mcomp.ir.types import TensorType
from mcomp.ir.verifier import compatible
from mcomp.manager.context import Context
from mcomp.ops.workload import PRODUCTS
from mcomp.passes.analysis.coupling import Coupling, Dimension, Removal
from mcomp.passes.analysis.ties import axis_rule_of

Kept = Mapping[int, np.ndarray]
"""By axis, the indices that stay, ascending."""


def narrow(graph: Graph, editor: Editor, removal: Removal) -> int:
    """Remove units: constants are cut, attributes that hold sizes rewritten, types inferred again.

    Returns the bytes of constants saved. Raises PassError when nothing of an axis would stay, a constant's encoding
    cannot be cut there, or an operator does not give the shape that the ties foretell; the edit is then undone by leaving
    its `with` block with that error.
    """
    touched = [n for n in graph.nodes if any(_shrinks(v, removal) for v in (*n.operands, *n.results))]
    shapes: dict[Value, tuple[Dim, ...]] = {}
    attrs: dict[Node, dict[str, Any]] = {}
    cuts: dict[Node, Weight] = {}
    for node in touched:
        shapes.update((v, removal.shape(v)) for v in node.results if isinstance(v.type, TensorType))
        _check_left(node, shapes)
        if node.op.name == "const":
            cuts[node] = _cut_constant(node, removal)
            continue
        rule = axis_rule_of(node.op)
        if rule is not None and rule.attrs is not None:
            attrs[node] = rule.attrs(node, removal)
    saved = 0
    for node in touched:
        if node in cuts:
            saved += node.graph.store.get(node.attrs["digest"]).nbytes - cuts[node].nbytes
            editor.set_attrs(node, digest=cuts[node].digest)
        elif attrs.get(node):
            editor.set_attrs(node, **attrs[node])
        _infer(editor, node, shapes)
    return saved


def _shrinks(value: Value | None, removal: Removal) -> bool:
    if value is None or not isinstance(value.type, TensorType):
        return False
    return any(removal.kept(value, axis) is not None for axis in range(value.type.rank))


def _check_left(node: Node, shapes: Mapping[Value, tuple[Dim, ...]]) -> None:
    for value in node.results:
        if value in shapes and any(new == 0 != old for new, old in zip(shapes[value], value.tensor.shape)):
            raise PassError(f"nothing of %{value.name} would be left", where=str(node.loc) or None)


def _infer(editor: Editor, node: Node, shapes: Mapping[Value, tuple[Dim, ...]]) -> None:
    try:
        editor.reinfer(node)
    except IRError as e:
        raise PassError(f"{node.op.name} does not take its narrower operands: {e.message}", where=str(node.loc)) from e
    for value in node.results:
        if value in shapes and not compatible(value.type, value.tensor.with_shape(shapes[value])):
            raise PassError(
                f"%{value.name} became {value.type}, but {list(shapes[value])} was foretold", where=str(node.loc) or None
            )


def _cut_constant(node: Node, removal: Removal) -> Weight:
    value = node.result
    kept = {a: k for a in range(value.tensor.rank) if (k := removal.kept(value, a)) is not None}
    weight = node.graph.store.get(node.attrs["digest"])
    try:
        type, parts = cut(weight.type, weight.parts, kept)
    except ValueError as e:
        raise PassError(f"{node.attrs['name']} cannot be cut: {e}", where=str(node.loc) or None) from e
    return node.graph.store.add(type, parts)


def cut(type: TensorType, parts: Mapping[str, np.ndarray], kept: Kept) -> tuple[TensorType, dict[str, np.ndarray]]:
    """The elements of a constant that stay, in its encoding. Raises ValueError where the encoding ties elements that stay to
    elements that go."""
    shape = tuple(len(kept[a]) if a in kept else d for a, d in enumerate(type.shape))
    encoding, found = _cut(type.encoding, type, dict(parts), kept)
    return TensorType(shape, type.dtype, encoding), {k: np.ascontiguousarray(v) for k, v in found.items()}


def _cut(
    encoding: Encoding, type: TensorType, parts: dict[str, np.ndarray], kept: Kept
) -> tuple[Encoding, dict[str, np.ndarray]]:
    if isinstance(encoding, Dense):
        return encoding, {"values": _take(parts["values"], kept)}
    if isinstance(encoding, Scaled):
        scales = {name: _take(array, {a: k for a, k in kept.items() if a in encoding.axis})
                  for name, array in parts.items() if name != "values"}
        return encoding, {"values": _take(parts["values"], kept), **scales}
    if isinstance(encoding, Affine):
        found = {name: _cut_scales(encoding, type, array, kept) for name, array in parts.items() if name != "values"}
        return encoding, {"values": _take(parts["values"], kept), **found}
    if isinstance(encoding, NM):
        return _cut_pairs(encoding, type, parts, kept)
    if isinstance(encoding, BlockSparse):
        return _cut_blocks(encoding, type, parts, kept)
    raise ValueError(f"nothing is known of {encoding}")


def _take(array: np.ndarray, kept: Kept) -> np.ndarray:
    for axis, indices in kept.items():
        array = array.take(indices, axis=axis)
    return array


def _cut_scales(encoding: Affine, type: TensorType, scales: np.ndarray, kept: Kept) -> np.ndarray:
    last = type.rank - 1
    along = {a: k for a, k in kept.items() if a in encoding.axis}
    if encoding.group is not None and last in kept:
        along[last] = _whole(kept[last], encoding.group, "groups")
    return _take(scales, along)


def _whole(indices: np.ndarray, size: int, what: str) -> np.ndarray:
    """The numbers of the pieces of `size` elements that indices are made of."""
    if len(indices) % size == 0:
        pieces = indices.reshape(-1, size)
        if np.array_equal(pieces, pieces[:, :1] // size * size + np.arange(size)):
            numbers: np.ndarray = pieces[:, 0] // size
            return numbers
    raise ValueError(f"it is stored in {what} of {size}, and only parts of some would go")


def _cut_pairs(
    encoding: NM, type: TensorType, parts: dict[str, np.ndarray], kept: Kept
) -> tuple[Encoding, dict[str, np.ndarray]]:
    last = type.rank - 1
    inside = dict(kept)
    if last in kept:
        groups = _whole(kept[last], encoding.m, "groups")
        inside[last] = (groups[:, None] * encoding.n + np.arange(encoding.n)).reshape(-1)
    width = parts["indices"].shape[-1]
    stored = type.with_shape((*type.shape[:-1], width)).with_encoding(encoding.inner)
    inner, found = _cut(encoding.inner, stored, {k: v for k, v in parts.items() if k != "indices"}, inside)
    return replace(encoding, inner=inner), {**found, "indices": _take(parts["indices"], inside)}


def _cut_blocks(
    encoding: BlockSparse, type: TensorType, parts: dict[str, np.ndarray], kept: Kept
) -> tuple[Encoding, dict[str, np.ndarray]]:
    counts = [int(d) // b for d, b in zip(type.static_shape, encoding.block)]
    rows, columns = (
        _whole(kept[a], encoding.block[a], "blocks") if a in kept else np.arange(counts[a]) for a in (0, 1)
    )
    owner = np.repeat(np.arange(counts[0]), np.diff(parts["rows"]))
    chosen = np.isin(owner, rows) & np.isin(parts["columns"], columns)
    starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(np.bincount(np.searchsorted(rows, owner[chosen]), minlength=len(rows)), out=starts[1:])
    found = {
        "values": parts["values"][chosen], "rows": starts,
        "columns": np.searchsorted(columns, parts["columns"][chosen]).astype(np.int32),
    }
    extra = {k: v for k, v in parts.items() if k not in found}
    if isinstance(encoding.inner, Affine):
        plain = type.with_encoding(encoding.inner)
        found |= {k: _cut_scales(encoding.inner, plain, v, kept) for k, v in extra.items()}
    return replace(encoding, count=int(chosen.sum())), found


def own_constants(graph: Graph, editor: Editor, *, matrices: bool = False) -> int:
    """Give every use of a constant a constant node of its own, so that equal ones (biases of zeros, scales of ones, masks)
    do not tie what has nothing to do with each other. Products and embeddings that read one matrix share their weight, and
    go on to, but with `matrices`. Returns how many nodes were added; `join_constants` takes them back."""
    added = 0
    for node in list(graph.nodes):
        if node.op.name != "const":
            continue
        uses = node.result.uses
        shared = [] if matrices else [use for use in uses if _weighs(node.type, *use)]
        for user, index in uses:
            if user is graph.returns or (user, index) in (shared or uses[:1]):
                continue
            weight = graph.store.get(node.attrs["digest"])
            copy = editor.const(weight, name=node.attrs["name"], loc=node.loc, before=node.next)
            editor.set_operand(user, index, copy)
            added += 1
    return added


def _weighs(type: TensorType, user: Node, index: int) -> bool:
    """Whether a node multiplies by a constant, or looks its rows up. A constant of which one axis alone is longer than 1 is
    a vector, and what attention reads beside its three operands is a mask."""
    if sum(d != 1 for d in type.shape) <= 1 or (user.op.name == "attention" and index > 2):
        return False
    return user.op.name in PRODUCTS or user.op.name == "embedding"


def join_constants(graph: Graph, editor: Editor) -> None:
    """Make one node of constants of equal content and name."""
    first: dict[tuple[str, str], Value] = {}
    for node in list(graph.nodes):
        if node.op.name != "const":
            continue
        value = first.setdefault((node.attrs["digest"], node.attrs["name"]), node.result)
        if value is not node.result:
            editor.replace(node.result, value)
            editor.erase(node)


def narrowed(graph: Graph, removal: Removal, label: str = "narrow") -> int:
    """`narrow` as an edit of its own: all or nothing. Returns the bytes saved."""
    with graph.edit(label) as editor:
        return narrow(graph, editor, removal)


class _Undo(Exception):
    """Leaves an edit that was only a trial."""


def feasible(
    graph: Graph, context: Context, coupling: Coupling, chosen: Mapping[Dimension, np.ndarray]
) -> dict[Dimension, np.ndarray]:
    """The choices that can be carried out together; what stands in the way of others is remarked."""
    if _trial(graph, coupling.removal(chosen)) is None:
        return dict(chosen)
    found: dict[Dimension, np.ndarray] = {}
    for dimension, units in chosen.items():
        reason = _trial(graph, coupling.removal({**found, dimension: units}))
        if reason is None:
            found[dimension] = units
        else:
            context.missed("prune", dimension.nodes[0], f"its {dimension.kind} cannot be cut out: {reason}",
                           "exclude it, or quantize it instead")
    return found


def _trial(graph: Graph, removal: Removal) -> str | None:
    try:
        with graph.edit("prune") as editor:
            narrow(graph, editor, removal)
            raise _Undo
    except _Undo:
        return None
    except PassError as e:
        return e.message


def all_but(count: int, gone: Sequence[int] | np.ndarray) -> np.ndarray:
    """The numbers below `count` that are not among `gone`, ascending."""
    stays = np.ones(count, bool)
    stays[np.asarray(gone, np.int64)] = False
    return np.flatnonzero(stays)
