"""An exported program as a graph: weights into the store, nodes through importers, the rest opaque."""

from __future__ import annotations

import importlib
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from mcomp.capture import scalars
from mcomp.capture.export import Exported
from mcomp.capture.importing import IMPORTERS, Call, Decline, tensor_type
from mcomp.capture.shim import PREFIX
from mcomp.capture.symbols import SymbolTable, Unsupported, bounds_of
from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Bounds, Expr
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Graph, InputSpec, OutputSpec, Value
from mcomp.ir.loc import Loc
from mcomp.ir.store import Weight, WeightStore
from mcomp.ir.types import TensorType
from mcomp.ops.base import Effect

FAMILIES = (
    "creation", "elementwise", "shape", "reduction", "linear", "einsum", "convolution", "attention", "norm", "pool",
    "index", "sorting", "recurrent", "control",
)
STATE_CHANGES = ("BUFFER_MUTATION", "PARAMETER_MUTATION")
TORCH_FOLDER = str(Path(torch.__file__).parent)


@dataclass
class Converted:
    """The graph, how many calls of which operators became opaque, with the reason, and assertions about values that are
    left out: (module path, message)."""

    graph: Graph
    opaque: Counter[tuple[str, str]] = field(default_factory=Counter)
    unchecked: list[tuple[str, str]] = field(default_factory=list)


def convert(exported: Exported, name: str, input_names: Sequence[str], store: WeightStore) -> Converted:
    """The graph of an exported program. Inputs: the tensors, in the order of `input_names`, then mutated state.
    Outputs: what the shim returns, then new contents of mutated inputs and state.

    Raises Unsupported for what the IR cannot say.
    """
    load_importers()
    graph = Graph(name, store)
    symbols = _symbols(exported, graph)
    converted = Converted(graph)
    with graph.edit("capture") as editor:
        builder = Builder(editor, symbols, converted)
        _inputs(exported, builder, input_names)
        results = builder.run(exported.program.graph_module)
        _outputs(exported, builder, results)
        for node in graph.reversed_nodes():
            defines = "symbol" in node.attrs  # a size that only values tell: who uses it may be no node
            if node.op.effect != Effect.EFFECTFUL and not defines and not any(value.uses for value in node.results):
                editor.erase(node)
    used = frozenset().union(
        *(_symbols_of(value) for node in graph.nodes for value in node.results),
        *(_symbols_of(value) for value in graph.inputs),
        *(dims.symbols_in(attribute) for node in graph.nodes for attribute in node.attrs.values()),
    )
    graph.symbols.update({n: b for n, b in symbols.bounds.items() if n in used})
    return converted


def load_importers() -> None:
    """Import the families, which register themselves."""
    for family in FAMILIES:
        importlib.import_module(f"mcomp.capture.import_{family}")


def _symbols_of(value: Value) -> frozenset[str]:
    return value.type.symbols if isinstance(value.type, TensorType) else frozenset()


def _symbols(exported: Exported, graph: Graph) -> SymbolTable:
    """Names for torch's symbols: those chosen for the inputs' sizes, one name per symbol."""
    tensors = [n for n in exported.program.graph.nodes if n.op == "placeholder"]
    users = _user_inputs(exported)
    placeholders = {n.name: n for n in tensors}
    names: dict[str, str] = {}
    taken: set[str] = set()
    for (index, axis), size in exported.choice.items():
        expression = getattr(placeholders[users[index]].meta["val"].shape[axis], "node", None)
        if expression is None or not expression.expr.is_Symbol or str(expression.expr) in names:
            continue
        name, count = size.name, 1
        while name in taken:
            count += 1
            name = f"{size.name}{count}"
        taken.add(name)
        names[str(expression.expr)] = name
    table = SymbolTable(names)
    for symbol, ranges in exported.program.range_constraints.items():
        if symbol.is_Symbol:
            table.bounds[table.name(symbol)] = bounds_of(ranges, exported.attempt.oblivious)
    for size in exported.choice.values():
        if size.bounds is not None and size.name in table.bounds:
            table.bounds[size.name] = _within(size.bounds, table.bounds[size.name])
    return table


def _within(asked: Bounds, found: Bounds) -> Bounds:
    """The bounds that the user gave, no wider than those that the program itself sets."""
    highs = [b.high for b in (asked, found) if b.high is not None]
    return Bounds(max(asked.low, found.low), min(highs, default=None))


def _user_inputs(exported: Exported) -> list[str]:
    specs = exported.program.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind == InputKind.USER_INPUT]


def _inputs(exported: Exported, builder: Builder, input_names: Sequence[str]) -> None:
    program = exported.program
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    graph = builder.editor.graph
    for fx_name, name in zip(_user_inputs(exported), input_names, strict=True):
        node = placeholders[fx_name]
        builder.env[node] = graph.add_input(name, builder.type_of(node))
    mutated = {
        spec.target for spec in program.graph_signature.output_specs
        if spec.kind.name in STATE_CHANGES
    }
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            continue
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            raise Unsupported(f"the program has an input of kind {spec.kind.name}")
        node = placeholders[spec.arg.name]
        target = str(spec.target)
        data = program.state_dict.get(target, program.constants.get(target))
        if not isinstance(data, torch.Tensor):
            raise Unsupported(f"the weight {target} is no tensor")
        path = target.removeprefix(PREFIX)
        weight = weight_of(data, builder.type_of(node), graph.store, path)
        if target in mutated:
            state = InputSpec("state", path, weight.digest)
            builder.env[node] = graph.add_input(path, weight.type, state)
        else:
            builder.weights[node] = (path, weight)


def weight_of(data: torch.Tensor, type: TensorType, store: WeightStore, path: str) -> Weight:
    """A snapshot of a tensor in the store. Raises Unsupported for tensors that are not plain and dense."""
    plain = data.detach()
    if plain.layout != torch.strided or plain.is_quantized:
        raise Unsupported(f"the weight {path} is not a dense tensor")
    plain = plain.cpu().contiguous()
    if not type.dtype.is_numpy_native:
        plain = plain.view(torch.uint8 if type.dtype.itemsize == 1 else torch.int16)
    array = plain.resolve_conj().numpy().view(type.dtype.numpy)
    return store.add(type, np.array(array, copy=True))


def _outputs(exported: Exported, builder: Builder, results: Sequence[Any]) -> None:
    program, graph = exported.program, builder.editor.graph
    users = dict(zip(_user_inputs(exported), graph.inputs))
    first: list[tuple[Value, OutputSpec]] = []
    last: list[tuple[Value, OutputSpec]] = []
    for spec, result in zip(program.graph_signature.output_specs, results, strict=True):
        value = result if isinstance(result, Value) else scalars.tensor(builder, result)
        if spec.kind == OutputKind.USER_OUTPUT:
            first.append((value, OutputSpec()))
        elif spec.kind.name in STATE_CHANGES:
            last.append((value, OutputSpec("state", str(spec.target).removeprefix(PREFIX))))
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            last.append((value, OutputSpec("mutated", users[str(spec.target)].name)))
        else:
            raise Unsupported(f"the program has an output of kind {spec.kind.name}")
    everything = first + last
    graph.set_outputs([value for value, _ in everything], [spec for _, spec in everything])


class Builder:
    """Walks a traced graph and adds its nodes to ours."""

    def __init__(self, editor: Editor, symbols: SymbolTable, converted: Converted) -> None:
        self.editor = editor
        self.symbols = symbols
        self.converted = converted
        self.env: dict[fx.Node, Any] = {}
        self.weights: dict[fx.Node, tuple[str, Weight]] = {}
        self.loc = Loc()

    def type_of(self, node: fx.Node) -> TensorType:
        """Type of a traced tensor."""
        fake = node.meta["val"]
        if not isinstance(fake, torch.Tensor):
            raise Unsupported(f"the input {node.name} is no tensor")
        return tensor_type(fake, self.symbols)

    def run(self, module: fx.GraphModule) -> list[Any]:
        """Convert every node; returns what the graph returns."""
        live = _live(module.graph)
        for node in module.graph.nodes:
            if node.op == "output":
                return [self.lookup(one) for one in _flat(node.args[0])]
            if node.op == "get_attr" and node not in self.env:
                self.env[node] = self.attribute(module, node)
            if node.op == "call_function" and node in live:
                self.loc = location(node)
                self.env[node] = self.call(module, node)
            elif node.op == "call_function" and scalars.asserts_values(node):
                self.converted.unchecked.append((location(node).path, str(node.args[1])))
            elif node.op in ("call_module", "call_method"):
                raise Unsupported(f"the program has a {node.op}")
        raise Unsupported("the program returns nothing")

    def attribute(self, module: fx.GraphModule, node: fx.Node) -> Any:
        """A tensor or a nested graph that a node refers to by name."""
        owner: Any = module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        if isinstance(owner, torch.Tensor):
            type = tensor_type(owner, self.symbols)
            weight = weight_of(owner, type, self.editor.graph.store, str(node.target))
            return self.editor.const(weight, name=str(node.target))
        return owner

    def lookup(self, argument: Any) -> Any:
        """What an argument of a traced node is here: value, dim, constant, or a list of those."""
        if isinstance(argument, fx.Node):
            if argument in self.weights and argument not in self.env:
                path, weight = self.weights[argument]
                self.env[argument] = self.editor.const(weight, name=path, loc=Loc(path.rpartition(".")[0]))
            return self.env[argument]
        if isinstance(argument, tuple | list):
            return [self.lookup(one) for one in argument]
        if isinstance(argument, torch.dtype):
            try:
                return dtypes.from_torch(argument)
            except KeyError as error:
                raise Unsupported(f"the program uses {argument}, an element type that the IR lacks") from error
        return argument

    def call(self, module: fx.GraphModule, node: fx.Node) -> Any:
        """Convert one call."""
        if node.target is operator.getitem:
            owner, index = self.lookup(node.args[0]), node.args[1]
            return owner[index]
        fake = node.meta.get("val")
        if isinstance(fake, torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool):
            return scalars.number(self, node)
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self.nested(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Unsupported(f"the program calls {node.target}, which is no operator of torch")
        return self.operator(node)

    def nested(self, node: fx.Node) -> Any:
        """Calls that hold graphs: regions under no_grad or autocast are inlined, `cond` becomes a node."""
        name = str(node.target)
        handler = IMPORTERS.get(f"higher_order.{name}")
        if handler is None:
            raise Unsupported(f"the program uses {name}")
        call = Call(node, {"args": self.lookup(list(node.args)), "builder": self}, self.editor, self.symbols, self.loc)
        return handler(call)

    def operator(self, node: fx.Node) -> Any:
        """A call of an operator: through its importer, else opaque."""
        assert isinstance(node.target, torch._ops.OpOverload)
        call = Call(node, self.bind(node), self.editor, self.symbols, self.loc)
        importer = IMPORTERS.get(str(node.target))
        reason = "mcomp has no operator for it"
        if importer is not None:
            try:
                result = importer(call)
                return self.checked(node, result)
            except Decline as declined:
                reason = str(declined)
            except IRError as error:
                reason = error.message
        self.converted.opaque[str(node.target), reason] += 1
        return self.opaque_call(node)

    def checked(self, node: fx.Node, result: Any) -> Any:
        """The results, whose element types and fixed sizes must be those that torch found. Raises Decline."""
        fakes = node.meta["val"]
        several = isinstance(fakes, tuple | list)
        values = list(result) if several else [result]
        for value, fake in zip(values, fakes if several else [fakes], strict=False):
            if value is None or not isinstance(fake, torch.Tensor):
                continue
            expected, found = tensor_type(fake, self.symbols), value.tensor
            differ = expected.dtype != found.dtype or expected.rank != found.rank
            pairs = zip(expected.shape, found.shape)
            if differ or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
                raise Decline(f"mcomp finds {found} where torch finds {expected}")
        return values if several else values[0]

    def bind(self, node: fx.Node) -> dict[str, Any]:
        """Arguments by the names of the schema, defaults filled in."""
        assert isinstance(node.target, torch._ops.OpOverload)
        bound: dict[str, Any] = {}
        for index, argument in enumerate(node.target._schema.arguments):
            if index < len(node.args):
                bound[argument.name] = self.lookup(node.args[index])
            elif argument.name in node.kwargs:
                bound[argument.name] = self.lookup(node.kwargs[argument.name])
            else:
                bound[argument.name] = argument.default_value if argument.has_default_value() else None
        return bound

    def opaque_call(self, node: fx.Node) -> Any:
        """A call that torch will run: operands written as `$i` in the template of its arguments."""
        fakes = node.meta["val"]
        several = isinstance(fakes, tuple | list)
        if any(fake is not None and not isinstance(fake, torch.Tensor) for fake in (fakes if several else (fakes,))):
            raise Unsupported(f"{node.target} has results that are no tensors")
        types = [tensor_type(fake, self.symbols) for fake in (fakes if several else (fakes,)) if fake is not None]
        known = {symbol for value in self.editor.graph.inputs for symbol in _symbols_of(value)}
        new = frozenset().union(*(type.symbols for type in types)) - known
        if new:
            raise Unsupported(f"the size of the result of {node.target} depends on values")
        operands: list[Value] = []
        args = tuple(self.template(self.lookup(one), operands) for one in node.args)
        kwargs = tuple(
            (key, self.template(self.lookup(one), operands)) for key, one in node.kwargs.items() if key not in PLACEMENT
        )
        attrs = {"args": args, "kwargs": kwargs, "types": tuple(types)}
        made = self.editor.add(str(node.target), operands, attrs, name=node.name, loc=self.loc).results
        return list(made) if several else made[0]

    def template(self, argument: Any, operands: list[Value]) -> Any:
        """An argument with its tensors written as `$i`, appended to `operands`."""
        if isinstance(argument, Value):
            operands.append(argument)
            return f"${len(operands) - 1}"
        if isinstance(argument, list | tuple):
            return tuple(self.template(one, operands) for one in argument)
        if argument is None or isinstance(argument, bool | int | float | complex | str | Expr | dtypes.DType):
            return argument
        raise Unsupported(f"an argument of type {type(argument).__name__} cannot be kept in the IR")


PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})


def _live(graph: fx.Graph) -> set[fx.Node]:
    """Calls that results depend on; assertions about sizes and types, which tracing has settled, do not count."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in live:
            live.update(node.all_input_nodes)
    return live


def _flat(argument: Any) -> list[Any]:
    return list(argument) if isinstance(argument, tuple | list) else [argument]


def location(node: fx.Node) -> Loc:
    """Module path and source line of a traced call: the innermost line that is not torch's own."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed([str(entry[0]) for entry in stack.values()]), "") if stack else ""
    file, line = source_line(node.meta.get("stack_trace") or "")
    return Loc(_module_path(path), file, line)


def _module_path(path: str) -> str:
    cleaned = path.removeprefix("L['self'].").removeprefix("L__self___")
    if cleaned == PREFIX.rstrip("."):
        return ""
    return cleaned.removeprefix(PREFIX)


def source_line(trace: str) -> tuple[str, int]:
    """File name and line of the innermost frame outside torch; the innermost of all when every frame is torch's."""
    frames: list[tuple[str, int]] = []
    for text in trace.splitlines():
        parts = text.strip().split(", ")
        if parts[0].startswith('File "') and len(parts) > 1 and parts[1].startswith("line "):
            frames.append((parts[0][6:-1], int(parts[1][5:])))
    outside = [frame for frame in frames if not frame[0].startswith(TORCH_FOLDER) and "mcomp/capture" not in frame[0]]
    chosen = (outside or frames or [("", 0)])[-1]
    return Path(chosen[0]).name, chosen[1]
