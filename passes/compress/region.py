"""Regions: connected parts of a graph, named by module path or found, that can be taken out, replaced and trained."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcomp.errors import IRError, PassError
from mcomp.ir.edit import Editor
from mcomp.ir.extract import extract
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.base import Effect

_NORMS = ("layer_norm", "rms_norm", "batch_norm", "group_norm")


@dataclass(frozen=True)
class Region:
    """Nodes of a graph, in order and without constants, and the values that cross its border.

    Convex: every node between two of its nodes is in it. `inputs` are values that it reads and does not make; constants,
    and what is made from nothing (`full`, `arange`), are not counted: they go with it. `outputs` are values of it that are
    used outside or returned, in order. `name` is a module path, or the name of the value it makes.
    """

    graph: Graph
    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def exit(self) -> Value:
        """The only output. Raises IRError when there are none or several."""
        if len(self.outputs) != 1:
            raise IRError(f"the region {self.name or 'of the whole model'} has {len(self.outputs)} outputs")
        return self.outputs[0]

    @property
    def entry(self) -> Value | None:
        """The input that the region changes step by step: of a floating-point type, and of the exit's type if one is;
        None when there is no such input (token ids)."""
        floats = [v for v in self.inputs if _is_float(v)]
        same = [v for v in floats if any(v.type == o.type for o in self.outputs)]
        return next(iter(same or floats), None)

    @property
    def whole(self) -> bool:
        """Whether it computes everything that the graph returns, from the graph's inputs."""
        return set(self.inputs) <= set(self.graph.inputs) and set(self.outputs) >= {
            v for v in self.graph.outputs if v.producer is not None and not is_source(v.producer)
        }

    @property
    def constants(self) -> tuple[Node, ...]:
        """The `const` nodes that it reads, in order."""
        found = {
            v.producer: None for n in self.nodes for v in n.operands
            if v is not None and v.producer is not None and v.producer.op.name == "const"
        }
        return tuple(found)

    def problem(self) -> str | None:
        """Why it cannot be replaced by something else that makes its outputs; None when it can."""
        if not self.nodes:
            return "it is empty"
        if not self.outputs:
            return "nothing uses what it computes"
        impure = next((n for n in self.nodes if n.op.effect is not Effect.PURE), None)
        if impure is not None:
            return f"{impure.op.name} in it is {impure.op.effect.value}"
        if any(not isinstance(v.type, TensorType) for v in (*self.inputs, *self.outputs)):
            return "a number that is no tensor crosses its border"
        if any(spec.kind != "result" and value in self.outputs
               for value, spec in zip(self.graph.outputs, self.graph.output_specs)):
            return "it changes state that the model keeps"
        return None


def is_source(node: Node) -> bool:
    """Whether a node makes its results from nothing: a constant, a filled tensor, a range."""
    return not any(v is not None for v in node.operands) and node.op.effect is Effect.PURE


def region_at(graph: Graph, path: str) -> Region:
    """The region of a module path: all nodes that come from that module or one below it ("": the whole graph).

    Raises PassError, with suggestions, when no node does.
    """
    if not path:
        return region_of(graph, (n for n in graph.nodes), "")
    inside = [n for n in graph.nodes if not is_source(n) and is_under(n, path)]
    if not inside:
        known = sorted(paths_in(graph))
        close = difflib.get_close_matches(path, known, n=3)
        raise PassError(
            f"no layer of the graph comes from {path!r}", code="MC0220",
            help=f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known[:12]) or 'none'}",
        )
    return region_of(graph, inside, path)


def is_under(node: Node, path: str) -> bool:
    """Whether all places in user code that a node comes from are in this module or below it."""
    paths = node.loc.paths
    return bool(paths) and all(p == path or p.startswith(path + ".") for p in paths)


def paths_in(graph: Graph) -> set[str]:
    """The module paths of all nodes, and their parents."""
    found: set[str] = set()
    for node in graph.nodes:
        for path in node.loc.paths:
            parts = path.split(".") if path else []
            found.update(".".join(parts[: i + 1]) for i in range(len(parts)))
    return found


def region_of(graph: Graph, nodes: Iterable[Node], name: str) -> Region:
    """The region of these nodes and of all nodes between them."""
    chosen = {n for n in nodes if not is_source(n)}
    inside = chosen | (_after(graph, chosen) & _before(graph, chosen))
    ordered = tuple(n for n in graph.nodes if n in inside)
    inputs: dict[Value, None] = {}
    outputs: list[Value] = []
    for node in ordered:
        for value in node.operands:
            if value is None or value.producer in inside or (value.producer is not None and is_source(value.producer)):
                continue
            inputs[value] = None
        outputs += [v for v in node.results if any(user not in inside for user in v.users)]
    return Region(graph, name, ordered, tuple(inputs), tuple(outputs))


def _after(graph: Graph, chosen: set[Node]) -> set[Node]:
    """The nodes that use something made by the chosen ones, directly or not."""
    found: set[Node] = set()
    for node in graph.nodes:
        if any(v is not None and (v.producer in chosen or v.producer in found) for v in node.operands):
            found.add(node)
    return found


def _before(graph: Graph, chosen: set[Node]) -> set[Node]:
    """The nodes that make something used by the chosen ones, directly or not."""
    found: set[Node] = set()
    for node in graph.reversed_nodes():
        if any(user in chosen or user in found for v in node.results for user in v.users):
            found.add(node)
    return found


def child_regions(graph: Graph, path: str) -> list[Region]:
    """The regions of the modules directly below a path that make exactly one value, in order; those that share nodes with
    an earlier one are left out. With a path whose modules are numbered (`layer.0`, `layer.1`) that is a run of blocks."""
    prefix = path + "." if path else ""
    children = dict.fromkeys(
        p[len(prefix):].split(".")[0] for n in graph.nodes if not is_source(n) for p in n.loc.paths
        if p.startswith(prefix) and p
    )
    found: list[Region] = []
    taken: set[Node] = set()
    for child in children:
        inside = [n for n in graph.nodes if not is_source(n) and is_under(n, prefix + child)]
        region = region_of(graph, inside, prefix + child)
        if region.problem() is None and len(region.outputs) == 1 and not taken & set(region.nodes):
            found.append(region)
            taken |= set(region.nodes)
    return found


def residual_regions(graph: Graph, within: Region | None = None) -> list[Region]:
    """Residual blocks, in order: for each `add` of two values that come from a common one, what lies between that value
    and the sum, if nothing else uses any of it and there is a weight in it, and the norm of the same module that alone
    reads the sum. Blocks that hold others are left out.

    Values that do not come from the common one (masks, positions) are further inputs.
    """
    ordered = [n for n in graph.nodes if within is None or n in set(within.nodes)]
    numbers: dict[Value, int] = {}
    for value in (within.inputs if within is not None else tuple(graph.inputs)):
        numbers[value] = len(numbers)
    order = list(numbers)
    above: dict[Value, int] = {v: 1 << i for v, i in numbers.items()}
    found: list[Region] = []
    for node in ordered:
        if is_source(node):
            continue
        mask = 0
        for operand in node.operands:
            if operand is not None:
                mask |= above.get(operand, 0)
        for value in node.results:
            numbers[value] = len(order)
            order.append(value)
            above[value] = mask | (1 << numbers[value])
        if node.op.name == "add" and len(node.operands) == 2:
            block = _with_norm(_between(node, above, order))
            if block is not None and not any(set(f.nodes) & set(block.nodes) for f in found):
                found.append(block)
    return found


def _between(node: Node, above: Mapping[Value, int], order: list[Value]) -> Region | None:
    """The block that ends in an addition, if it is one."""
    a, b = node.operand(0), node.operand(1)
    common = above.get(a, 0) & above.get(b, 0)
    bit = common.bit_length() - 1
    if bit < 0 or a is b or not _is_float(order[bit]):
        return None
    region = _interval(node, order[bit], above, bit)
    if region is None or not any(v is not None and v.is_const for n in region.nodes for v in n.operands[1:2]
                                 if n.op.name in ("linear", "conv", "conv_transpose")):
        return None
    return region if region.outputs == (node.result,) and region.problem() is None else None


def _with_norm(block: Region | None) -> Region | None:
    """The block with the norm behind it, where that belongs to the same module and nothing else reads the sum."""
    if block is None or not block.name or len(block.exit.uses) != 1:
        return block
    following = block.exit.users[0]
    if following.op.name not in _NORMS or following.operands[0] is not block.exit or not is_under(following, block.name):
        return block
    return region_of(block.graph, (*block.nodes, following), block.name)


def _interval(node: Node, entry: Value, above: Mapping[Value, int], bit: int) -> Region | None:
    """The nodes that come from `entry` and lead to `node`."""
    members: set[Node] = set()
    pending = [node]
    while pending:
        member = pending.pop()
        if member in members:
            continue
        members.add(member)
        for value in member.operands:
            if value is None or value is entry or value.producer is None:
                continue
            if above.get(value, 0) >> bit & 1:
                pending.append(value.producer)
    name = common_path(members) or node.name
    region = region_of(node.graph, members, name)
    return region if len(region.nodes) == len(members) else None


def common_path(nodes: Iterable[Node]) -> str:
    """The longest module path that all nodes come from; empty when they have none in common."""
    paths = [p.split(".") for n in nodes for p in n.loc.paths if p]
    if not paths:
        return ""
    shared = paths[0]
    for path in paths[1:]:
        same = 0
        while same < min(len(shared), len(path)) and shared[same] == path[same]:
            same += 1
        shared = shared[:same]
    return ".".join(shared)


def merged(regions: Iterable[Region], name: str = "") -> Region:
    """One region of several, with all nodes between them. Raises IRError without any, or for regions of different
    graphs."""
    given = list(regions)
    if not given or any(r.graph is not given[0].graph for r in given):
        raise IRError("only regions of one graph can be merged")
    nodes = [n for r in given for n in r.nodes]
    return region_of(given[0].graph, nodes, name or common_path(nodes))


def body_of(region: Region) -> Graph:
    """A graph of its own that computes the region's outputs from its inputs, in their order. It shares the weight store;
    names, types, locations and bounds of sizes are kept."""
    sources = {
        v.producer for n in region.nodes for v in n.operands
        if v is not None and v.producer is not None and is_source(v.producer)
    }
    copy = extract({*region.nodes, *sources}, region.name or region.graph.name).graph
    copy.set_outputs([copy.value(v.name) for v in region.outputs])
    return copy


def splice(editor: Editor, region: Region, body: Graph) -> list[Value]:
    """Put copies of the nodes of `body` in the region's place; returns what replaces its outputs, in order.

    `body` takes the region's inputs and gives its outputs, in order, types included. Nodes and constants of the region that
    nothing uses any more are erased. Values keep the names that they have in `body` where these are free. Raises IRError
    when the types differ or the region has users before its end.
    """
    for old, new in zip((*region.inputs, *region.outputs), (*body.inputs, *body.outputs), strict=True):
        if old.type != new.type:
            raise IRError(f"%{new.name} is {new.type}, but takes the place of %{old.name}: {old.type}")
    last = region.nodes[-1]
    graph, inside = region.graph, set(region.nodes)
    for value in region.outputs:
        for user in value.users:
            if user not in inside and user is not graph.returns and graph.position(user) < graph.position(last):
                raise IRError(f"%{value.name} is used before the region {region.name} ends", ir=repr(user))
    sources = {v.producer for n in region.nodes for v in n.operands if v is not None and v.producer is not None}
    before = last.prev
    found = editor.inline(body, list(region.inputs), before=last)
    added = _nodes_between(graph, before, last)
    for old, new in zip(region.outputs, found):
        editor.replace(old, new)
    for node in reversed(region.nodes):
        editor.erase(node)
    for source in sources - inside:
        if source is not None and is_source(source) and not any(v.uses for v in source.results):
            editor.erase(source)
    for copy, original in zip(added, body.nodes):
        for value, wanted in zip(copy.results, original.results):
            if value not in found and value.name != wanted.name and graph.unique_name(wanted.name) == wanted.name:
                editor.rename(value, wanted.name)
    return found


def _nodes_between(graph: Graph, first: Node | None, last: Node) -> list[Node]:
    """The nodes after `first` (None: from the start) and before `last`."""
    node = next(graph.nodes) if first is None else first.next
    found = []
    while node is not None and node is not last:
        found.append(node)
        node = node.next
    return found


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_float
