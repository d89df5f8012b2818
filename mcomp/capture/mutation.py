"""What a call does to the containers it is given: attributes of caches, dict entries, lists. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.capture import structure
from mcomp.capture.structure import Items, Pairs, Path, Rebind, Record, Spec
from mcomp.errors import ArtifactError


@dataclass(frozen=True)
class Snapshot:
    """A mutable container before the call: where it is, the object, and what it held."""

    path: Path
    owner: Any
    children: Mapping[Any, Any]


def snapshots(spec: Spec, value: Any, path: Path = ()) -> list[Snapshot]:
    """The mutable containers in `value`, outer before inner."""
    if not isinstance(spec, Items | Pairs | Record):
        return []
    children = contents(value)
    found = [Snapshot(path, value, children)] if path and not isinstance(value, tuple) else []
    steps: Sequence[Any] = range(len(spec.items))
    if isinstance(spec, Pairs):
        steps = spec.keys
    elif isinstance(spec, Record):
        steps = spec.fields
    for step, item in zip(steps, spec.items, strict=True):
        found += snapshots(item, structure.child_at(value, step), (*path, step))
    return found


def contents(value: Any) -> dict[Any, Any]:
    """Keys, indices or attribute names, and what is there."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return structure.attributes_of(value)


def changes(before: Sequence[Snapshot], leaves: list[Any], numbers: Mapping[type, str]) -> list[Rebind]:
    """What differs now; tensors of new values are appended to `leaves`."""
    same = {id(one.owner): one.path for one in before}
    found: list[Rebind] = []
    done: set[Path] = set()
    for one in before:
        if any(one.path[: len(path)] == path for path in done):
            continue
        now = contents(one.owner)
        if isinstance(one.owner, list) and len(now) != len(one.children):
            items = tuple(structure.describe(item, leaves, same, numbers) for item in one.owner)
            found.append(Rebind(one.path, Items("list", items), "contents"))
            done.add(one.path)
            continue
        for step, child in now.items():
            old = one.children.get(step, found)
            if child is old or (isinstance(child, structure.PLAIN) and type(child) is type(old) and child == old):
                continue
            found.append(Rebind((*one.path, step), structure.describe(child, leaves, same, numbers)))
            done.add((*one.path, step))
        gone = [step for step in one.children if step not in now]
        found += [Rebind((*one.path, step), structure.Constant(None), "delete") for step in gone]
    return found


def to_json(rebinds: Sequence[Rebind]) -> Any:
    """JSON data."""
    same = [structure.to_json(structure.Same(one.path)) for one in rebinds]
    return [
        {"at": path["same"], "action": one.action, "value": structure.to_json(one.spec)}
        for path, one in zip(same, rebinds, strict=True)
    ]


def from_json(data: Any) -> tuple[Rebind, ...]:
    """Read what `to_json` wrote. Raises ArtifactError for anything else."""
    found = []
    for row in data if isinstance(data, list) else [None]:
        if not isinstance(row, dict) or row.get("action") not in ("set", "contents", "delete"):
            raise ArtifactError(f"{str(row)[:80]} is no change of an argument")
        place = structure.from_json({"same": row.get("at")})
        if not isinstance(place, structure.Same) or not place.path:
            raise ArtifactError(f"{str(row)[:80]} says nothing about where")
        if any(isinstance(step, str) and step.startswith("__") for step in place.path):
            raise ArtifactError(f"{structure.path_text(place.path)} may not be changed")
        found.append(Rebind(place.path, structure.from_json(row.get("value")), row["action"]))
    return tuple(found)
