"""Options that `layers` gives for single layers: checked before anything runs, as those of the whole pass are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

from mcomp.errors import PassError
from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.manager.passes import Pass
from mcomp.manager.pipeline import with_options

DEFAULT_ENERGY = 0.99
"""The share of a layer's output energy that factors keep when nothing says how much."""
_AMOUNTS = ("rank", "ratio", "energy")
_PassType = TypeVar("_PassType", bound=Pass)


class Amounts(Protocol):
    """What says how much of layers stays; None: nothing."""

    @property
    def rank(self) -> int | None: ...

    @property
    def ratio(self) -> float | None: ...

    @property
    def energy(self) -> float | None: ...


def check_limit(rule: str, limit: int) -> None:
    """Raise PassError for a number of calibration batches that leaves none."""
    if limit < 1:
        raise PassError(f"{rule}: limit is {limit}", code="MC0204", help="use 1 calibration batch or more")


def switched_off(rule: str, node: Node, context: Context) -> bool:
    """Whether a rule leaves a node alone, as `Context.excluded` tells, without a remark."""
    options = context.layer_options
    return node.name in context.skip.get(rule, ()) or any(
        options.excluded(path) is not None or options.options(path).get(rule) is False
        for path in node.loc.paths or (node.layer,)
    )


def check_layers(
    given: _PassType, graph: Graph, context: Context, names: Collection[str], check: Callable[[_PassType], None]
) -> None:
    """Raise PassError, naming the layer, where what `layers` gives for the options `names` of a pass is of the wrong kind,
    or `check` refuses the pass with it. Layers that the pass leaves alone may have anything. Its other options leave a
    remark: they are of the whole pass."""
    if not context.layer_options.layers:
        return
    seen: set[tuple[str, ...]] = set()
    for node in graph.nodes:
        paths = node.loc.paths or (node.layer,)
        if paths in seen or switched_off(given.name, node, context):
            continue
        seen.add(paths)
        own = {k: v for path in paths for k, v in context.layer_options.options(path).items()}
        try:
            check(with_options(given, {k: v for k, v in own.items() if k in names}))
        except PassError as e:
            raise PassError(e.message, code=e.code, where=f"layers, for {node.layer}", help=e.help) from e
        for f in dataclasses.fields(given):  # type: ignore[arg-type]
            if f.name in own and f.name not in names:
                context.missed(given.name, node, f"{f.name} is an option of the whole pass, which layers does not change",
                               f"write {given.name}{{{f.name}=...}} in a pipeline")


def amount(options: Amounts, node: Node, context: Context) -> tuple[str, Any]:
    """Which of rank, ratio and energy says how much of a layer or table stays, and its value: what `layers` gives for it
    (the first of these), else what the pass has."""
    own = [(name, v) for name in _AMOUNTS if (v := context.option(node, name, None)) is not None]
    if len(own) > 1:
        others = " and ".join(name for name, _ in own[1:])
        context.remark("note", "lowrank", node, f"{own[0][0]}={own[0][1]} of layers counts, and {others} does not")
    given = own or [(name, v) for name in _AMOUNTS if (v := getattr(options, name)) is not None]
    return given[0] if given else ("energy", DEFAULT_ENERGY)
