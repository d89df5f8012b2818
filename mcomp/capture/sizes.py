"""Which dimensions of the inputs are symbolic, and under what names."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from mcomp.capture import structure
from mcomp.capture.structure import Path
from mcomp.errors import CaptureError
from mcomp.ir.dims import Bounds
from mcomp.ir.scanner import IDENT
from mcomp.ir.terms import WORDS

Shape = tuple[int, ...]
_HELP = 'write dynamic={"x": {1: "S"}}, or {"x": [1]}: names of arguments to axes'


@dataclass(frozen=True, slots=True)
class Size:
    """A symbolic dimension: its name, and bounds if the user gave any."""

    name: str
    bounds: Bounds | None = None


Choice = dict[tuple[int, int], Size]
"""(index of the tensor, axis) -> its symbolic size."""


def choose(shapes: Sequence[Shape], paths: Sequence[Path], dynamic: Any, others: Sequence[Sequence[Shape]]) -> Choice:
    """The dimensions to make symbolic.

    `dynamic`: None, the batch, and whatever differs from the shapes seen in `others` (of the same tensors, in other
    calls). False: nothing. True: every dimension. A dict: argument paths to axes, `{"input_ids": {1: "S"}}`, with a name,
    a name and bounds `("S", 1, 512)`, or None to keep an axis static; `{"input_ids": [0, 1]}` names them itself.
    What the dict does not mention is treated as with None. Raises CaptureError for paths and axes that do not exist.
    """
    check_dynamic(dynamic)
    if dynamic is False:
        return {}
    names = _Names()
    choice: Choice = {}
    if dynamic is True:
        for tensor, axis, size in _axes(shapes):
            choice[tensor, axis] = Size("B" if axis == 0 else names.for_sizes((size,)))
        return choice
    batch = batch_size(shapes)
    for tensor, axis, size in _axes(shapes):
        if axis == 0 and size == batch:
            choice[tensor, axis] = Size("B")
    for tensor, axis, size in _axes(shapes):
        seen = (size, *(other[tensor][axis] for other in others))
        if len(set(seen)) > 1 and (tensor, axis) not in choice:
            choice[tensor, axis] = Size(names.for_sizes(seen))
    for path, axes in (dynamic or {}).items():
        _apply(choice, path, axes, shapes, paths, names)
    return choice


def check_dynamic(dynamic: Any) -> None:
    """Raise CaptureError for what `choose` cannot read as a choice of dimensions."""
    if dynamic is None or isinstance(dynamic, bool):
        return
    if not isinstance(dynamic, Mapping):
        raise CaptureError(f"dynamic is {dynamic!r}, which is neither True, False nor a dict", help=_HELP)
    for path, axes in dynamic.items():
        if not isinstance(path, str):
            raise CaptureError(f"dynamic has {path!r}, which names no argument", help=_HELP)
        if isinstance(axes, str) or not isinstance(axes, Collection) or not all(map(_is_axis, axes)):
            raise CaptureError(f"dynamic gives {axes!r} for `{path}`, which is no list of axes", help=_HELP)


def _is_axis(given: Any) -> bool:
    try:
        index(given)
    except TypeError:
        return False
    return not isinstance(given, bool)


def batch_size(shapes: Sequence[Shape]) -> int | None:
    """The size that most tensors have at axis 0; the first tensor decides between equals. None without tensors."""
    counts = Counter(shape[0] for shape in shapes if shape)
    if not counts:
        return None
    most = max(counts.values())
    return next(shape[0] for shape in shapes if shape and counts[shape[0]] == most)


def _axes(shapes: Sequence[Shape]) -> Iterator[tuple[int, int, int]]:
    for tensor, shape in enumerate(shapes):
        for axis, size in enumerate(shape):
            yield tensor, axis, size


class _Names:
    """Names for sizes: dimensions that had equal sizes in every call get one name."""

    def __init__(self) -> None:
        letters = "STUVWXYZ" + "".join(c for c in string.ascii_uppercase if c not in "BSTUVWXYZ")
        self.free = [*letters, *(f"S{i}" for i in range(1, 1000))]
        self.known: dict[tuple[int, ...], str] = {}

    def for_sizes(self, seen: tuple[int, ...]) -> str:
        if seen not in self.known:
            self.known[seen] = self.free.pop(0)
        return self.known[seen]

    def take(self, name: str) -> None:
        if name in self.free:
            self.free.remove(name)


def _apply(
    choice: Choice, path: str, axes: Any, shapes: Sequence[Shape], paths: Sequence[Path], names: _Names
) -> None:
    texts = [structure.path_text(one) for one in paths]
    tensors = [i for i, text in enumerate(texts) if _below(text, path)]
    if not tensors:  # a keyword that the model takes among others, in its `**kwargs`
        tensors = [i for i, text in enumerate(texts) if _below(text.partition(".")[2], path)]
    if not tensors:
        known = ", ".join(texts)
        raise CaptureError(f"dynamic names `{path}`, which is no argument with a tensor", help=f"there are: {known}")
    wanted: Mapping[int, Any] = axes if isinstance(axes, Mapping) else dict.fromkeys(axes, "")
    for tensor in tensors:
        shape = shapes[tensor]
        for axis, asked in wanted.items():
            if not -len(shape) <= axis < len(shape):
                raise CaptureError(f"dynamic names axis {axis} of `{path}`, whose shape is {list(shape)}",
                                   help=f"axes of `{path}` go from 0 to {len(shape) - 1}")
            place = (tensor, axis % len(shape))
            if asked is None:
                choice.pop(place, None)
                continue
            choice[place] = _size(asked, shape[place[1]], place[1], names)


def _size(asked: Any, size: int, axis: int, names: _Names) -> Size:
    if isinstance(asked, str):
        name = asked or ("B" if axis == 0 else names.for_sizes((size,)))
        names.take(name)
        bounds = None
    elif isinstance(asked, tuple) and len(asked) == 3:
        name, bounds = str(asked[0]), _bounds(asked)
    else:
        raise CaptureError(f"{asked!r} names no dimension", help='write a name, "S", or a name and bounds, ("S", 1, 512)')
    if not IDENT.fullmatch(name):
        raise CaptureError(f"{name!r} cannot name a dimension", help="use letters from a to z, digits and underscores")
    if name in WORDS:
        raise CaptureError(f"{name!r} cannot name a dimension: it means something in the IR", help="use another, such as S")
    return Size(name, bounds)


def _bounds(asked: tuple[Any, Any, Any]) -> Bounds:
    """The bounds of (name, low, high); high None: unbounded."""
    name, low, high = asked
    try:
        bounds = Bounds(index(low), None if high is None else index(high))
    except TypeError as e:
        raise _no_range(name, low, high) from e
    if bounds.low < 0 or (bounds.high is not None and bounds.high < bounds.low):
        raise _no_range(name, low, high)
    return bounds


def _no_range(name: Any, low: Any, high: Any) -> CaptureError:
    return CaptureError(f"{name} cannot go from {low} to {high}", help='write whole numbers, 0 or more: ("S", 1, 512)')


def _below(text: str, path: str) -> bool:
    return text == path or (text.startswith(path) and text[len(path)] in ".[")
