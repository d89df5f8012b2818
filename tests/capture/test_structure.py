"""Nested values as flat tensors, and back."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from mcomp.capture import mutation, structure
from mcomp.capture.structure import Fields
from mcomp.errors import ArtifactError, CallError

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Boxed:
    values: torch.Tensor
    label: str = "a"


class Store:
    """Holds tensors in attributes, as caches do."""

    def __init__(self) -> None:
        self.layers = [torch.zeros(2), torch.ones(3)]
        self.length = 5
        self.batch_size = 2


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


VALUES: list[Any] = [
    tensor(1.0),
    (tensor(1.0), [tensor(2.0), None, 3, "x"]),
    {"a": tensor(1.0), "b": {"c": (tensor(2.0),)}, 3: True},
    OrderedDict(z=tensor(1.0), a=tensor(2.0)),
    Pair(tensor(1.0), (tensor(2.0), 0.5)),
    Boxed(tensor(1.0, 2.0)),
    [Boxed(tensor(1.0)), Pair(None, tensor(2.0))],
    np.arange(3),
    (),
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor | np.ndarray):
        return a is b
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Boxed):
        return type(a) is type(b) and same(vars(a), vars(b))
    return bool(a == b)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_come_back_as_they_were(value: Any) -> None:
    leaves: list[Any] = []
    spec = structure.describe(value, leaves)
    assert same(value, structure.build(spec, leaves))
    again: list[Any] = []
    structure.collect(spec, value, again)
    assert len(again) == len(leaves) and all(a is b for a, b in zip(again, leaves))


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_specs_survive_json(value: Any) -> None:
    spec = structure.describe(value, [])
    assert structure.from_json(json.loads(json.dumps(structure.to_json(spec)))) == spec


def test_classes_that_are_not_there_come_back_as_plain_containers() -> None:
    leaves: list[Any] = []
    spec = structure.describe({"p": Pair(tensor(1.0), 2), "b": Boxed(tensor(3.0), "named")}, leaves)
    value = structure.build(structure.from_json(structure.to_json(spec)), leaves)
    assert value["p"] == (leaves[0], 2)
    assert isinstance(value["b"], Fields)
    assert value["b"].label == "named" and value["b"]["values"] is leaves[1]


def test_transformers_outputs_and_caches() -> None:
    transformers = pytest.importorskip("transformers")
    cache = transformers.DynamicCache()
    cache.update(torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    from transformers.modeling_outputs import BaseModelOutputWithPast

    output = BaseModelOutputWithPast(last_hidden_state=tensor(1.0), past_key_values=cache)
    leaves: list[Any] = []
    spec = structure.describe(output, leaves)
    assert len(leaves) == 3
    made = structure.build(spec, leaves)
    assert type(made) is BaseModelOutputWithPast and made.last_hidden_state is leaves[0]
    assert made.past_key_values is not cache and made.past_key_values.layers[0].values is leaves[2]
    assert made.past_key_values.get_seq_length() == 3


@pytest.mark.parametrize(
    ("captured", "called", "place"),
    [
        ({"x": tensor(1.0)}, {"x": None}, "x"),
        ({"x": (tensor(1.0), 2)}, {"x": (tensor(1.0), 3)}, "x[1]"),
        ({"x": [tensor(1.0)]}, {"x": [tensor(1.0), tensor(1.0)]}, "x"),
        ({"x": {"k": 1}}, {"x": {"j": 1}}, "x"),
        ({"x": True}, {"x": 1}, "x"),
        ({"x": Boxed(tensor(1.0), "a")}, {"x": Boxed(tensor(1.0), "b")}, "x.label"),
    ],
)
def test_a_call_with_another_structure_names_the_place(captured: Any, called: Any, place: str) -> None:
    spec = structure.describe(captured, [])
    with pytest.raises(CallError, match=f"(^|\\W){place.replace('[', '.').replace(']', '.')}:"):
        structure.collect(spec, called, [])


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CallError, match="holds itself"):
        structure.describe(loop, [])


def test_what_a_cache_notes_of_its_batch_size_may_change() -> None:
    spec = structure.describe({"s": Store()}, [])
    other = Store()
    other.batch_size = 7
    structure.collect(spec, {"s": other}, [])
    other.length = 6
    with pytest.raises(CallError, match=r"s\.length"):
        structure.collect(spec, {"s": other}, [])


@pytest.mark.parametrize(
    "data", [None, [], {}, {"leaf": -1}, {"leaf": "0"}, {"dict": [1]}, {"dataclass": "X", "fields": ["a"], "items": []}]
)
def test_json_of_something_else_is_refused(data: Any) -> None:
    with pytest.raises(ArtifactError):
        structure.from_json(data)


def change_everything(arguments: dict[str, Any]) -> None:
    arguments["store"].layers[0] = arguments["store"].layers[0] + 1
    arguments["store"].length = 6
    arguments["store"].extra = tensor(9.0)
    arguments["items"].append(tensor(4.0))
    arguments["table"]["new"] = tensor(5.0)
    del arguments["table"]["old"]


def arguments() -> dict[str, Any]:
    return {"store": Store(), "items": [tensor(1.0)], "table": defaultdict(None, old=tensor(2.0)), "same": {"k": 1}}


def test_changes_of_arguments_are_seen_and_repeated() -> None:
    mine = arguments()
    spec = structure.describe(mine, [])
    before = mutation.snapshots(spec, mine)
    change_everything(mine)
    leaves: list[Any] = []
    rebinds = mutation.changes(before, leaves, {})
    assert not any(one.path[0] == "same" for one in rebinds)

    theirs = arguments()
    structure.apply_rebinds(mutation.from_json(mutation.to_json(rebinds)), theirs, leaves)
    assert torch.equal(theirs["store"].layers[0], torch.ones(2)) and theirs["store"].length == 6
    assert torch.equal(theirs["store"].extra, tensor(9.0))
    assert len(theirs["items"]) == 2 and torch.equal(theirs["items"][1], tensor(4.0))
    assert list(theirs["table"]) == ["new"]


def test_a_file_cannot_change_special_attributes() -> None:
    data = [{"at": ["store", "__class__"], "action": "set", "value": {"constant": 1}}]
    with pytest.raises(ArtifactError, match="may not be changed"):
        mutation.from_json(data)
