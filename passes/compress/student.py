"""Students: graphs that are to take a region's place, from a user's module or derived from the region itself."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.errors import McompError, PassError
from mcomp.ir import dims
from mcomp.ir.dims import Bounds, Dim, Expr
from mcomp.ir.graph import Graph, Value
from mcomp.ir.loc import Loc
from mcomp.ir.types import TensorType, Type
from mcomp.manager.context import Context
from mcomp.manager.defaults import CLEANUP
from mcomp.manager.run import PassManager
from mcomp.passes.compress.region import Region, child_regions, residual_regions, splice
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import nn

RULE = "distill"
_CAPTURE_HELP = "give a module that torch.export can export: one whose forward does not look at the values of tensors"


def from_module(region: Region, module: nn.Module, example: Sequence[Any]) -> Graph:
    """A user's module as a body for a region.

    It is captured (a copy, in evaluation mode) with the region's inputs as positional arguments, in order; a module that
    takes one argument gets the region's entry. Sizes that are symbolic in the region are symbolic in the student. Batch
    norms take the mean and variance that the example gives them, layer after layer, and are folded. Values are named after
    the region; locations are `distill[region.path of the module]`.

    Raises PassError when it cannot be captured, keeps state, or gives other types than the region.
    """
    from mcomp.capture import capture

    positions = _arguments(region, module)
    wanted = [region.inputs[i] for i in positions]
    student = copy.deepcopy(module).eval()
    try:
        captured = capture(
            student, [example[i] for i in positions], dynamic=_dynamic(wanted, student, region.graph.symbols),
            store=region.graph.store,
        )
    except McompError as e:
        raise PassError(
            f"distill: the student {type(module).__name__} cannot be captured: {e.message}", code="MC0222",
            where=region.name or None, help=e.help or _CAPTURE_HELP,
        ) from e
    program = captured.program
    if program is None:
        reason = "; ".join(f"{e.path or 'the module'}: {e.reason}" for e in captured.eager)
        raise PassError(f"distill: the student {type(module).__name__} cannot be captured whole: {reason}", code="MC0222",
                        where=region.name or None, help=_CAPTURE_HELP)
    graph = program.graph
    if any(s.kind != "arg" for s in graph.input_specs) or any(s.kind != "result" for s in graph.output_specs):
        raise PassError(f"distill: the student {type(module).__name__} keeps state between calls", code="MC0222",
                        where=region.name or None, help="give a module whose forward changes no buffer and no argument")
    body = _renamed(graph, region, positions, wanted)
    _check_types(body, region, module)
    _measure_norms(body, list(example))
    PassManager(CLEANUP).run(body, Context())
    return body


def _arguments(region: Region, module: nn.Module) -> list[int]:
    """Which inputs of the region a module takes, in its order."""
    parameters = [
        p for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    count = len(region.inputs)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) or len(parameters) >= count:
        return list(range(count))
    required = [p for p in parameters if p.default is p.empty]
    entry = region.entry
    if len(required) <= 1 and entry is not None:
        return [region.inputs.index(entry)]
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in region.inputs)
    raise PassError(
        f"distill: the student {type(module).__name__} takes {len(parameters)} arguments, but the region has {count} inputs",
        code="MC0221", where=region.name or None, help=f"its forward gets, in order: {inputs}",
    )


def _dynamic(inputs: Sequence[Value], module: nn.Module, bounds: Mapping[str, Bounds]) -> dict[str, dict[int, Any]]:
    """What to keep symbolic, by the names of the module's parameters; sizes that are more than a symbol get names."""
    parameters = [p.name for p in inspect.signature(module.forward).parameters.values()]
    found: dict[str, dict[int, Any]] = {}
    for name, value in zip(parameters, inputs):
        axes: dict[int, Any] = {}
        for axis, dim in enumerate(value.tensor.shape):
            if isinstance(dim, Expr):
                known = bounds.get(str(dim), Bounds())
                axes[axis] = (_name_of(dim), known.low, known.high)
            else:
                axes[axis] = None
        found[name] = axes
    return found


def _name_of(dim: Expr) -> str:
    text = str(dim)
    return text if text.isidentifier() else "D_" + "".join(c if c.isalnum() else "_" for c in text)


def _renamed(graph: Graph, region: Region, positions: Sequence[int], wanted: Sequence[Value]) -> Graph:
    """The student with the region's inputs (those that it does not take included), sizes, and names of its own."""
    sizes: dict[str, Dim] = {}
    for given, value in zip(graph.inputs, wanted):
        for ours, theirs in zip(given.tensor.shape, value.tensor.shape):
            if isinstance(ours, Expr) and str(ours).isidentifier():
                sizes[str(ours)] = theirs
    prefix = region.outputs[0].name
    body = Graph(region.name or region.graph.name, region.graph.store)
    body.symbols = dict(region.graph.symbols)
    body.symbols.update({n: b for n, b in graph.symbols.items() if n not in sizes})
    inputs = [body.add_input(v.name, v.type) for v in region.inputs]
    mapping: dict[Value, Value] = {value: inputs[i] for value, i in zip(graph.inputs, positions)}
    with body.edit(RULE) as editor:
        for node in graph.nodes:
            attrs = {k: _resized(a, sizes) for k, a in node.attrs.items()}
            if node.op.name == "const":
                attrs["name"] = ".".join(p for p in (region.name, str(node.attrs["name"])) if p)
            copied = editor.add(
                node.op, [None if v is None else mapping[v] for v in node.operands], attrs,
                name=[f"{prefix}_{v.name}" for v in node.results], loc=_located(node.loc, region.name),
                types=[_resized_type(v.type, sizes) for v in node.results],
            )
            mapping.update(zip(node.results, copied.results))
    body.set_outputs([mapping[v] for v in graph.outputs])
    return body


def _resized(value: Any, sizes: Mapping[str, Dim]) -> Any:
    if isinstance(value, Expr):
        return dims.substitute(value, sizes)
    if isinstance(value, tuple):
        return tuple(_resized(v, sizes) for v in value)
    return value


def _resized_type(type: Type, sizes: Mapping[str, Dim]) -> Type:
    if not isinstance(type, TensorType):
        return type
    return type.with_shape(tuple(dims.substitute(d, sizes) for d in type.shape))


def _located(loc: Loc, path: str) -> Loc:
    """A place in a student, as a place below the region's path."""
    leaves = loc.leaves or (Loc(path),)
    parts = tuple(
        Loc(".".join(p for p in (path, leaf.path) if p), leaf.file, leaf.line) for leaf in dict.fromkeys(leaves)
    )
    return Loc(rule=RULE, parts=parts)


def _check_types(body: Graph, region: Region, module: nn.Module) -> None:
    name = type(module).__name__
    if len(body.outputs) != len(region.outputs):
        raise PassError(
            f"distill: the student {name} gives {len(body.outputs)} results, the region {len(region.outputs)}",
            code="MC0221", where=region.name or None, help="let its forward return tensors, as the region gives them",
        )
    for ours, theirs in zip(body.outputs, region.outputs):
        if ours.type != theirs.type:
            raise PassError(
                f"distill: the student {name} gives {ours.type}, but the region gives %{theirs.name}: {theirs.type}",
                code="MC0221", where=region.name or None,
                help="its result takes the place of that value, so that shape and element type must agree",
            )


def _measure_norms(body: Graph, example: Sequence[Any]) -> None:
    """Set the mean and variance of every batch norm to what the example gives there, in order."""
    import torch

    from mcomp.ops.encoded import array_of
    from mcomp.passes.compress.training.tasks import running_teacher

    for node in [n for n in body.nodes if n.op.name == "batch_norm"]:
        constants = [node.operand(i).producer for i in (1, 2)]
        if any(c is None or c.op.name != "const" for c in constants):
            continue
        x = running_teacher(body, [node.operand(0)])(example)[0].float()
        over = [i for i in range(x.dim()) if i != 1]
        measured = (x.mean(over), x.var(over, correction=0) if x.numel() else torch.ones(x.shape[1]))
        with body.edit(RULE, loc=node.loc) as editor:
            for index, (old, value) in enumerate(zip(constants, measured), 1):
                assert old is not None
                const = editor.const(array_of(value.contiguous()), name=old.attrs["name"], loc=old.loc, before=node)
                editor.set_operand(node, index, const)


def narrower(body: Graph, calibration: Calibration, ratio: float, seed: int) -> Graph:
    """A copy of a body of which pruning keeps this share of the units of every layer inside, and what it makes of them.

    Inputs and outputs keep their shapes; nothing changes when no units can go.
    """
    from mcomp.passes.compress.prune import Prune

    copied = body.clone()
    context = Context(calibration=calibration, seed=seed)
    step = 8 if ratio >= 0.25 else 1
    prune = Prune(ratio=1.0 - ratio, what=("channels", "ffn", "heads"), least=min(0.1, ratio), granularity=step)
    PassManager([prune]).run(copied, context)
    copied.ledger = list(body.ledger)
    return copied


def shallower(body: Graph, calibration: Calibration, ratio: float, path: str = "") -> tuple[Graph, list[str]]:
    """A copy of a body with at least this share of its layers, and the names of those that were dropped.

    Layers are the residual blocks and the modules directly below `path` that give what they get, in type. Those go first
    that change their input least on the calibration data: ||f(x) - x|| / ||f(x)||, as Men et al. 2024 and others rank the
    layers of transformers. Each is replaced by its input.
    """
    copied = body.clone()
    blocks = _droppable(copied, path)
    count = math.floor(len(blocks) * (1.0 - ratio) + 1e-9)
    if count <= 0:
        return copied, []
    importance = _changes(copied, blocks, calibration)
    order = sorted(range(len(blocks)), key=lambda i: (importance[i], i))
    dropped = [blocks[i] for i in sorted(order[:count])]
    names = []
    for block in reversed(dropped):  # the inputs of a block are those that they were only as long as those before it stay
        entry = block.entry
        assert entry is not None
        with copied.edit(RULE, loc=block.nodes[-1].loc) as editor:
            splice(editor, block, _identity(block, entry))
        names.append(block.name)
    return copied, names[::-1]


def _droppable(graph: Graph, path: str) -> list[Region]:
    """Blocks that can be left out, without overlap: modules of a run where there are some, else residual blocks."""
    modules = [r for r in _runs(graph, path) if r.entry is not None and r.entry.type == r.exit.type]
    if len(modules) > 1:
        return modules
    return [r for r in residual_regions(graph) if r.entry is not None and r.entry.type == r.exit.type]


def _runs(graph: Graph, path: str) -> list[Region]:
    """The modules below a path, at the first depth where there are several."""
    found = child_regions(graph, path)
    while len(found) == 1 and found[0].name != path:
        path = found[0].name
        found = child_regions(graph, path)
    return found


def _changes(graph: Graph, blocks: Sequence[Region], calibration: Calibration) -> list[float]:
    """How much each block changes its input, relative to its output."""
    import torch

    from mcomp.passes.compress.training.tasks import running_teacher

    entries = [b.entry for b in blocks]
    wanted = [v for pair in zip(entries, (b.exit for b in blocks)) for v in pair if v is not None]
    compute = running_teacher(graph, wanted)
    change, size = torch.zeros(len(blocks)).double(), torch.zeros(len(blocks)).double()
    for batch in calibration.batches[:8]:
        found = compute(calibration.inputs(graph, batch))
        for i, (before, after) in enumerate(zip(found[::2], found[1::2])):
            change[i] += (after - before).double().square().sum()
            size[i] += after.double().square().sum()
    return [float(c / s) if s > 0 else 0.0 for c, s in zip(change, size)]


def _identity(block: Region, entry: Value) -> Graph:
    body = Graph(block.name, block.graph.store)
    body.symbols = dict(block.graph.symbols)
    inputs = {v: body.add_input(v.name, v.type) for v in block.inputs}
    body.set_outputs([inputs[entry]])
    return body
