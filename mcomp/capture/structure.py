"""Nested arguments and results as flat lists of tensors, and back.

A `Spec` says how a value is made of tensors (`Leaf`), Python constants and containers. Specs are plain data: they can
be written as JSON and read where torch, or the classes of the containers, are not there; then named tuples come back
as tuples and other classes as `Fields`. Nothing is ever imported by name: classes are known only from the user's own
live objects. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mcomp.errors import ArtifactError, CallError

Path = tuple[Any, ...]
PLAIN = (type(None), bool, int, float, complex, str, bytes)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor: its index in the flat list. `number` (int, float or bool) marks a Python number computed by the model,
    which travels as a tensor of no dimensions."""

    index: int
    number: str = ""


@dataclass(frozen=True, slots=True)
class Constant:
    """A Python constant that the captured program depends on; equal only to itself, type included."""

    value: Any


@dataclass(frozen=True, slots=True)
class Opaque:
    """Any other Python object, compared by equality. `text` describes it; the object is not written to files."""

    text: str
    live: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Items:
    """A tuple or list; `live` is its class when that is neither."""

    kind: str
    items: tuple[Spec, ...]
    live: type | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Pairs:
    """A dict; `live` is its class when that is not `dict`."""

    keys: tuple[Any, ...]
    items: tuple[Spec, ...]
    live: type | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Record:
    """An object with named fields. `kind` is namedtuple, dataclass, output (a dict with attributes, as transformers
    returns) or object (a cache: every attribute is a field). `name` is the class's name, for people."""

    kind: str
    name: str
    fields: tuple[str, ...]
    items: tuple[Spec, ...]
    live: type | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Same:
    """The very object that was passed in at this path of the arguments."""

    path: Path


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A Python constant that may be anything at a call: what a cache notes of the batch size it was made for."""

    value: Any


Spec = Leaf | Constant | Opaque | Items | Pairs | Record | Same | Unchecked


class Fields(dict[str, Any]):
    """A record whose class is not there: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def is_tensor(value: object) -> bool:
    """Whether a value is a torch tensor or a numpy array."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def path_text(path: Path) -> str:
    """`('cache', 'layers', 0, 'keys')` as `cache.layers[0].keys`."""
    text = ""
    for step in path:
        if isinstance(step, str) and step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text or "the value"


def describe(
    value: Any, leaves: list[Any], same: Mapping[int, Path] | None = None, numbers: Mapping[type, str] | None = None
) -> Spec:
    """The spec of a value; its tensors are appended to `leaves`.

    `same` maps ids of mutable argument objects to their paths: such an object becomes `Same`. `numbers` names the
    kinds of symbolic numbers (while tracing), which count as tensors.
    """
    return _Describer(leaves, same or {}, numbers or {}).spec(value, 0)


class _Describer:
    def __init__(self, leaves: list[Any], same: Mapping[int, Path], numbers: Mapping[type, str]) -> None:
        self.leaves = leaves
        self.same = same
        self.numbers = numbers

    def spec(self, value: Any, depth: int) -> Spec:
        if is_tensor(value) or type(value) in self.numbers:
            self.leaves.append(value)
            return Leaf(len(self.leaves) - 1, self.numbers.get(type(value), ""))
        if isinstance(value, PLAIN):
            return Constant(value)
        if id(value) in self.same:
            return Same(self.same[id(value)])
        if depth > 40:
            raise CallError(f"a {type(value).__name__} is nested more than 40 levels deep, or holds itself")
        kind = type(value)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return self.record("namedtuple", kind, list(kind._fields), list(value), depth)
        if isinstance(value, tuple | list):
            base = "tuple" if isinstance(value, tuple) else "list"
            live = None if kind in (tuple, list) else kind
            return Items(base, tuple(self.spec(item, depth + 1) for item in value), live)
        if isinstance(value, dict) and dataclasses.is_dataclass(value):
            return self.record("output", kind, [str(key) for key in value], list(value.values()), depth)
        if isinstance(value, dict):
            items = tuple(self.spec(item, depth + 1) for item in value.values())
            return Pairs(tuple(value.keys()), items, None if kind is dict else kind)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
            return self.record("dataclass", kind, names, [getattr(value, name) for name in names], depth)
        if holds_state(value):
            attributes = attributes_of(value)
            made = self.record("object", kind, list(attributes), list(attributes.values()), depth)
            loose: tuple[Spec, ...] = tuple(
                Unchecked(item.value) if isinstance(item, Constant) and "batch_size" in name else item
                for name, item in zip(made.fields, made.items, strict=True)
            )
            return dataclasses.replace(made, items=loose)
        return Opaque(_text_of(value), value)

    def record(self, kind: str, live: type, names: list[str], values: list[Any], depth: int) -> Record:
        items = tuple(self.spec(value, depth + 1) for value in values)
        return Record(kind, live.__name__, tuple(names), items, live)


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes of an instance: its `__dict__` and the slots that are set."""
    attributes = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                attributes.setdefault(name, getattr(value, name))
    return attributes


def holds_state(value: Any, depth: int = 4) -> bool:
    """Whether a value is a cache, or an instance that holds tensors in its attributes (modules and classes excluded)."""
    if isinstance(value, type) or (callable(value) and hasattr(value, "__code__")):
        return False
    names = {cls.__name__ for cls in type(value).__mro__}
    if "Module" in names or "function" in names or "module" in names:
        return False
    if "Cache" in names or "CacheLayerMixin" in names or "LinearAttentionCacheLayerMixin" in names:
        return True
    if not (hasattr(value, "__dict__") or hasattr(type(value), "__slots__")):
        return False
    return any(_reaches_tensor(item, depth) for item in attributes_of(value).values())


def _reaches_tensor(value: Any, depth: int) -> bool:
    if is_tensor(value):
        return True
    if depth == 0 or isinstance(value, PLAIN):
        return False
    if isinstance(value, tuple | list):
        return any(_reaches_tensor(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return any(_reaches_tensor(item, depth - 1) for item in value.values())
    return holds_state(value, depth - 1)


def _text_of(value: Any) -> str:
    if isinstance(value, type) or type(value).__repr__ is object.__repr__:
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)[:200]


def collect(spec: Spec, value: Any, leaves: list[Any], path: Path = ()) -> None:
    """Append the tensors of `value`, which must have the structure `spec`, to `leaves` in the order of their indices.

    Raises CallError naming the place where it differs.
    """
    if isinstance(spec, Leaf):
        if not is_tensor(value):
            value = _number_as_array(value, path)
        leaves.append(value)
    elif isinstance(spec, Constant):
        if value is not spec.value and not _same_constant(spec.value, value):
            raise _mismatch(path, repr(spec.value), value)
    elif isinstance(spec, Items):
        base = tuple if spec.kind == "tuple" else list
        if not isinstance(value, base) or len(value) != len(spec.items):
            raise _mismatch(path, f"a {spec.kind} of {len(spec.items)}", value)
        for index, (item, one) in enumerate(zip(spec.items, value, strict=True)):
            collect(item, one, leaves, (*path, index))
    elif isinstance(spec, Pairs):
        if not isinstance(value, dict) or value.keys() != set(spec.keys):
            raise _mismatch(path, f"a dict with the keys {list(spec.keys)}", value)
        for key, item in zip(spec.keys, spec.items, strict=True):
            collect(item, value[key], leaves, (*path, key))
    elif isinstance(spec, Record):
        _collect_record(spec, value, leaves, path)
    elif isinstance(spec, Opaque):
        if value is not spec.live and _text_of(value) != spec.text:
            raise _mismatch(path, spec.text, value)
    elif isinstance(spec, Same):
        raise CallError(f"{path_text(path)} is a result, not an argument")


def _collect_record(spec: Record, value: Any, leaves: list[Any], path: Path) -> None:
    if type(value) is not spec.live and type(value).__name__ != spec.name and not isinstance(value, Fields):
        raise _mismatch(path, f"a {spec.name}", value)
    present = list(value.keys()) if isinstance(value, dict) else None
    if present is None and spec.kind == "object":
        present = list(attributes_of(value))
    if present is not None and set(present) != set(spec.fields):
        changed = ", ".join(sorted(set(present) ^ set(spec.fields)))
        message = f"{path_text(path)}: this {spec.name} differs from the captured one in {changed}"
        raise CallError(message, help=RECAPTURE)
    for name, item in zip(spec.fields, spec.items, strict=True):
        one = value[name] if isinstance(value, dict) else getattr(value, name)
        collect(item, one, leaves, (*path, name))


RECAPTURE = "capture the model again with arguments like these"


def _same_constant(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or repr(a) == repr(b))


def _number_as_array(value: Any, path: Path) -> np.ndarray:
    if isinstance(value, np.generic):
        return np.asarray(value)
    raise _mismatch(path, "a tensor", value)


def _mismatch(path: Path, expected: str, value: Any) -> CallError:
    found = _text_of(value) if isinstance(value, PLAIN) else f"a {type(value).__name__}"
    if is_tensor(value):
        found = "a tensor"
    if isinstance(value, tuple | list):
        found += f" of {len(value)}"
    elif isinstance(value, dict):
        found += f" with the keys {list(value)}"
    return CallError(f"{path_text(path)}: the model was captured with {expected} here, not {found}", help=RECAPTURE)


def build(spec: Spec, leaves: Sequence[Any], arguments: Mapping[str, Any] | None = None) -> Any:
    """The value with this structure and these tensors; `arguments` resolves `Same`."""
    if isinstance(spec, Leaf):
        return leaves[spec.index].item() if spec.number else leaves[spec.index]
    if isinstance(spec, Constant | Unchecked):
        return spec.value
    if isinstance(spec, Opaque):
        return spec.live
    if isinstance(spec, Same):
        return at_path(arguments or {}, spec.path)
    items = [build(item, leaves, arguments) for item in spec.items]
    if isinstance(spec, Items):
        if spec.live is not None:
            return spec.live(items)
        return tuple(items) if spec.kind == "tuple" else items
    if isinstance(spec, Pairs):
        pairs = dict(zip(spec.keys, items, strict=True))
        if spec.live is None:
            return pairs
        make: Callable[..., Any] = spec.live
        return defaultdict(None, pairs) if issubclass(spec.live, defaultdict) else make(pairs)
    return _build_record(spec, items)


def _build_record(spec: Record, items: list[Any]) -> Any:
    if spec.live is None:
        return tuple(items) if spec.kind == "namedtuple" else Fields(zip(spec.fields, items, strict=True))
    make: Callable[..., Any] = spec.live
    if spec.kind == "namedtuple":
        return make(*items)
    if spec.kind == "output":
        return make(**dict(zip(spec.fields, items, strict=True)))
    made: Any = object.__new__(spec.live)
    for name, item in zip(spec.fields, items, strict=True):
        object.__setattr__(made, name, item)
    return made


def at_path(root: Any, path: Path) -> Any:
    """The object at a path: keys of dicts, indices of sequences, names of attributes."""
    value = root
    for step in path:
        value = child_at(value, step)
    return value


def child_at(value: Any, step: Any) -> Any:
    """One step of a path: the entry of a dict, the item of a sequence, the attribute of anything else."""
    if isinstance(value, dict) or (isinstance(value, list | tuple) and not isinstance(step, str)):
        return value[step]
    return getattr(value, step)


@dataclass(frozen=True, slots=True)
class Rebind:
    """One change that a call makes to a mutable argument. `set`: the attribute, key or index at `path` becomes `spec`.
    `contents`: the list at `path` gets the contents of `spec`. `delete`: the attribute or key at `path` goes."""

    path: Path
    spec: Spec
    action: str = "set"


def apply_rebinds(rebinds: Sequence[Rebind], arguments: Mapping[str, Any], leaves: Sequence[Any]) -> None:
    """Change the caller's objects as the model would have; `leaves` are the results of the graph."""
    ready = [(one, build(one.spec, leaves, arguments)) for one in rebinds]
    for rebind, value in ready:
        if rebind.action == "contents":
            at_path(arguments, rebind.path)[:] = value
            continue
        owner, step = at_path(arguments, rebind.path[:-1]), rebind.path[-1]
        entry = isinstance(owner, dict) or not isinstance(step, str)
        if rebind.action == "delete":
            owner.pop(step) if entry else object.__delattr__(owner, step)
        elif entry:
            owner[step] = value
        else:
            object.__setattr__(owner, step, value)


def leaf_paths(spec: Spec, path: Path = ()) -> dict[int, Path]:
    """The path of every tensor, by its index."""
    if isinstance(spec, Leaf):
        return {spec.index: path}
    if not isinstance(spec, Items | Pairs | Record):
        return {}
    steps: Sequence[Any] = range(len(spec.items))
    if isinstance(spec, Pairs):
        steps = spec.keys
    elif isinstance(spec, Record):
        steps = spec.fields
    found: dict[int, Path] = {}
    for step, item in zip(steps, spec.items, strict=True):
        found.update(leaf_paths(item, (*path, step)))
    return found


def renumber(spec: Spec, index: Callable[[int], int]) -> Spec:
    """The same structure with other leaf indices."""
    if isinstance(spec, Leaf):
        return Leaf(index(spec.index), spec.number)
    if isinstance(spec, Items | Pairs | Record):
        return dataclasses.replace(spec, items=tuple(renumber(item, index) for item in spec.items))
    return spec


def to_json(spec: Spec) -> Any:
    """The spec as JSON data. Constants that JSON lacks (complex, bytes, non-finite floats) are written as their text."""
    if isinstance(spec, Leaf):
        return {"leaf": spec.index} | ({"number": spec.number} if spec.number else {})
    if isinstance(spec, Constant):
        return {"constant": _constant_to_json(spec.value)}
    if isinstance(spec, Unchecked):
        return {"unchecked": _constant_to_json(spec.value)}
    if isinstance(spec, Opaque):
        return {"opaque": spec.text}
    if isinstance(spec, Same):
        return {"same": [_constant_to_json(step) for step in spec.path]}
    items = [to_json(item) for item in spec.items]
    if isinstance(spec, Items):
        return {spec.kind: items}
    if isinstance(spec, Pairs):
        return {"dict": [[_constant_to_json(key), item] for key, item in zip(spec.keys, items, strict=True)]}
    return {spec.kind: spec.name, "fields": list(spec.fields), "items": items}


def _constant_to_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    return {"text": repr(value), "type": type(value).__name__}


def _constant_from_json(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    parsers: dict[str, Callable[[str], Any]] = {"float": float, "complex": complex}
    kind, text = data.get("type"), data.get("text")
    if kind in parsers and isinstance(text, str):
        return parsers[kind](text)
    return text


def from_json(data: Any) -> Spec:
    """Read what `to_json` wrote. Raises ArtifactError for anything else."""
    if not isinstance(data, dict) or not data:
        raise ArtifactError(f"{data!r} describes no structure")
    kind, value = next(iter(data.items()))
    if kind == "leaf" and isinstance(value, int) and value >= 0:
        number = data.get("number", "")
        if number in ("", "int", "float", "bool"):
            return Leaf(value, number)
    if kind == "constant":
        return Constant(_constant_from_json(value))
    if kind == "unchecked":
        return Unchecked(_constant_from_json(value))
    if kind == "opaque" and isinstance(value, str):
        return Opaque(value)
    if kind == "same" and isinstance(value, list):
        return Same(tuple(_constant_from_json(step) for step in value))
    if kind in ("tuple", "list") and isinstance(value, list):
        return Items(kind, tuple(from_json(item) for item in value))
    if kind == "dict" and isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return Pairs(tuple(_constant_from_json(key) for key, _ in value), tuple(from_json(item) for _, item in value))
    fields, items = data.get("fields"), data.get("items")
    known = kind in ("namedtuple", "dataclass", "output", "object") and isinstance(value, str)
    if known and isinstance(fields, list) and isinstance(items, list) and len(fields) == len(items):
        return Record(kind, value, tuple(str(name) for name in fields), tuple(from_json(item) for item in items))
    raise ArtifactError(f"{str(data)[:80]} describes no structure")


