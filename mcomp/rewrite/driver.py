"""Applies rules until none applies any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mcomp.errors import IRError
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType, Type
from mcomp.ir.verifier import compatible
from mcomp.manager.context import Context
from mcomp.manager.passes import PassEffect
from mcomp.ops.base import Effect
from mcomp.rewrite.match import Match
from mcomp.rewrite.pattern import Found
from mcomp.rewrite.rule import Rule

_SWEEPS = 32


@dataclass
class Outcome:
    """How often each rule was applied, by name."""

    applied: dict[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return bool(self.applied)

    def count(self, name: str) -> None:
        self.applied[name] = self.applied.get(name, 0) + 1

    def merge(self, other: Outcome) -> None:
        for name, count in other.applied.items():
            self.applied[name] = self.applied.get(name, 0) + count


def apply_rules(rules: Sequence[Rule], graph: Graph, context: Context, owner: str) -> Outcome:
    """Apply rules greedily, in order of the nodes and of `rules`, to a fixpoint.

    Each application is one atomic edit labelled with the rule's name; nodes of the match that nobody needs any more go
    in the same edit. `owner` is the pass: `layers={path: {owner: False}}` switches its rules off for a layer, and
    remarks name `owner.rule`. Nested graphs are not entered.
    """
    driver = _Driver(rules, graph, context, owner)
    driver.run()
    return driver.outcome


class _Driver:
    def __init__(self, rules: Sequence[Rule], graph: Graph, context: Context, owner: str) -> None:
        self.graph = graph
        self.context = context
        self.owner = owner
        self.outcome = Outcome()
        self.by_op: dict[str, list[Rule]] = {}
        for r in rules:
            for name in r.pattern.names:
                self.by_op.setdefault(name, []).append(r)
        self.stopped = False

    def run(self) -> None:
        for _ in range(_SWEEPS):
            if not self._sweep() or self.stopped:
                return
        self.context.remark("warning", self.owner, "", f"rules still applied after {_SWEEPS} sweeps")

    def _sweep(self) -> bool:
        """Visit every node, and again those near a change; returns whether anything changed."""
        changed = False
        queue = deque(n for n in self.graph.nodes if n.op.name in self.by_op)
        queued = set(queue)
        while queue and not self.stopped:
            node = queue.popleft()
            queued.discard(node)
            if not node.alive:
                continue
            touched = self._visit(node)
            if touched is None:
                continue
            changed = True
            for near in touched:
                if near.alive and near not in queued and near.op.name in self.by_op:
                    queue.append(near)
                    queued.add(near)
        return changed

    def _visit(self, node: Node) -> list[Node] | None:
        """Apply the first rule that applies; returns the nodes to look at again, or None if none applied."""
        for r in self.by_op[node.op.name]:
            for found in r.pattern.match_node(node, Found()):
                match = Match(node, found, self.context)
                if not self._accepts(r, match):
                    continue
                if not self.context.allow_rewrite(f"{self.owner}.{r.name}"):
                    self.stopped = True
                    return None
                return self._apply(r, match)
        return None

    def _accepts(self, r: Rule, match: Match) -> bool:
        label = f"{self.owner}.{r.name}"
        miss = r.check(match) if r.check is not None else None
        if miss is not None:
            if miss.reason:
                self.context.missed(label, match.root, miss.reason, miss.remedy)
            return False
        if r.private:
            outside = match.outside_user()
            if outside is not None:
                value, user = outside
                self.context.missed(
                    label, match.root, f"%{value.name} is also used by {user.op.name} %{user.name}",
                    "return only the final result of the layer",
                )
                return False
        if r.effect is PassEffect.EXACT:
            return True
        return not any(self.context.excluded(self.owner, n) for n in match.nodes)

    def _apply(self, r: Rule, match: Match) -> list[Node]:
        root = match.root
        before = [v.producer for v in root.operands if v is not None and v.producer is not None]
        touched = [u for v in root.results for u in v.users]
        with self.graph.edit(r.name, match.loc(r.name)) as editor:
            replaced = r.rewrite(match, editor)
            if replaced is None:
                if root.alive:
                    touched.append(root)
            else:
                values = [replaced] if isinstance(replaced, Value) else list(replaced)
                _check_types(r, root, values, editor)
                touched += [v.producer for v in values if v.producer is not None]
                editor.replace_node(root, values)
            drop_dead(editor, [*match.nodes, *before])
        self.outcome.count(r.name)
        return [*touched, *before]


def _check_types(r: Rule, root: Node, values: Sequence[Value], editor: Editor) -> None:
    """New values take the types of the results they replace, where sizes are only written differently. A number in place of
    a size that is open is another size."""
    for old, new in zip(root.results, values, strict=True):
        if old.type == new.type:
            continue
        if not compatible(old.type, new.type) or (new in editor._added and _fixes_size(old.type, new.type)):
            raise IRError(f"rule {r.name} replaces %{old.name}: {old.type} by a {new.type}")
        if new in editor._added:
            editor.set_type(new, old.type)


def _fixes_size(old: Type, new: Type) -> bool:
    """Whether a size that symbols tell in one type is a number in another."""
    if not isinstance(old, TensorType) or not isinstance(new, TensorType):
        return False
    return any(isinstance(b, int) and not isinstance(a, int) for a, b in zip(old.shape, new.shape))


def drop_dead(editor: Editor, nodes: Iterable[Node]) -> int:
    """Erase those of `nodes` that nobody needs, and what only they needed; returns how many.

    Effectful nodes stay, and those that give a symbol its value.
    """
    queue = deque(nodes)
    dropped = 0
    while queue:
        node = queue.popleft()
        if not node.alive or node.effect is Effect.EFFECTFUL or "symbol" in node.attrs:
            continue
        if not node.results or any(v.uses for v in node.results):
            continue
        queue.extend(v.producer for v in node.operands if v is not None and v.producer is not None)
        editor.erase(node)
        dropped += 1
    return dropped
