"""How importers are written: one function per operator of torch, registered by its full name.

    @imports("aten.relu.default")
    def relu(call: Call) -> Value:
        return call.emit("relu", [call.value("self")])

An importer that cannot express a call raises `Decline` with a reason; the call then becomes an opaque node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from mcomp.capture.symbols import SymbolTable, Unsupported
from mcomp.ir import dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Value
from mcomp.ir.loc import Loc
from mcomp.ir.types import TensorType

Result = Value | Sequence[Value | None]
Importer = Callable[["Call"], Result]
IMPORTERS: dict[str, Importer] = {}


class Decline(Exception):
    """This call has no native form; the reason goes into a remark."""


def imports(*names: str) -> Callable[[Importer], Importer]:
    """Decorator: import these operators with the function. Raises ValueError when a name is taken."""

    def register(function: Importer) -> Importer:
        for name in names:
            if name in IMPORTERS:
                raise ValueError(f"{name} has an importer already")
            IMPORTERS[name] = function
        return function

    return register


class Call:
    """One call of a torch operator, with its arguments by the names of its schema.

    Arguments are values (tensors), dims (sizes), Python constants, or lists of those; absent ones have the schema's
    default.
    """

    def __init__(
        self, node: fx.Node, arguments: Mapping[str, Any], editor: Editor, symbols: SymbolTable, loc: Loc
    ) -> None:
        self.node = node
        self.name = str(node.target)
        self.arguments = arguments
        self.editor = editor
        self.symbols = symbols
        self.loc = loc

    def __getitem__(self, name: str) -> Any:
        if name not in self.arguments:
            raise Decline(f"it has no argument called {name}")
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or `default` when the schema has no such argument or it is None."""
        value = self.arguments.get(name)
        return default if value is None else value

    def value(self, name: str) -> Value:
        """A tensor argument. Raises Decline when it is none."""
        value = self[name]
        if not isinstance(value, Value):
            raise Decline(f"its argument {name} is no tensor")
        return value

    def maybe(self, name: str) -> Value | None:
        """A tensor argument that may be absent."""
        return self.value(name) if self.arguments.get(name) is not None else None

    @property
    def result(self) -> TensorType:
        """Type of the (first) result."""
        return self.results[0]

    @property
    def results(self) -> list[TensorType]:
        """Types of the results that are tensors."""
        meta = self.node.meta["val"]
        values = meta if isinstance(meta, tuple | list) else (meta,)
        return [self.tensor_type(v) for v in values if isinstance(v, torch.Tensor)]

    def tensor_type(self, fake: torch.Tensor) -> TensorType:
        """The type of a traced tensor."""
        return tensor_type(fake, self.symbols)

    # emitting

    def emit(self, op: str, operands: Sequence[Value | None], **attrs: Any) -> Value:
        """Add a node with one result."""
        return self.editor.add(op, operands, attrs, name=self.node.name, loc=self.loc).result

    def emit_many(self, op: str, operands: Sequence[Value | None], **attrs: Any) -> tuple[Value, ...]:
        """Add a node with several results."""
        return self.editor.add(op, operands, attrs, name=self.node.name, loc=self.loc).results

    def cast(self, value: Value, dtype: DType) -> Value:
        """The value converted to `dtype`; itself when it has it already."""
        return value if value.tensor.dtype == dtype else self.emit("cast", [value], dtype=dtype)

    def full(self, value: Any, dtype: DType, shape: Sequence[Dim] = ()) -> Value:
        """A tensor filled with a number or a symbolic size."""
        if isinstance(value, int) and dtype.is_float:
            value = float(value)
        elif isinstance(value, float) and dtype.is_int:
            value = int(value)
        elif dtype.kind == "bool" and isinstance(value, int | float):
            value = bool(value)
        return self.emit("full", [], value=value, shape=tuple(shape), dtype=dtype)

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """The value with another shape; itself when it has it already."""
        return value if value.tensor.shape == tuple(shape) else self.emit("reshape", [value], shape=tuple(shape))

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its axes reordered; itself when the order is the natural one."""
        if list(order) == list(range(len(order))):
            return value
        return self.emit("permute", [value], order=tuple(order))

    def unsqueeze(self, value: Value, axes: Sequence[int]) -> Value:
        """The value with axes of size one at these positions of the result; itself for none."""
        return self.emit("unsqueeze", [value], axes=tuple(axes)) if axes else value

    def squeeze(self, value: Value, axes: Sequence[int]) -> Value:
        """The value without these axes of size one; itself for none."""
        return self.emit("squeeze", [value], axes=tuple(axes)) if axes else value

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        """The value broadcast to a shape; itself when it has it already."""
        return value if value.tensor.shape == tuple(shape) else self.emit("expand", [value], shape=tuple(shape))


def tensor_type(fake: torch.Tensor, symbols: SymbolTable) -> TensorType:
    """The type of a traced tensor. Raises Unsupported for dtypes and layouts that the IR lacks."""
    if fake.layout != torch.strided:
        raise Unsupported(f"a tensor with the layout {fake.layout} has no type in the IR")
    try:
        dtype = dtypes.from_torch(fake.dtype)
    except KeyError as error:
        raise Unsupported(f"a tensor of {fake.dtype} has no type in the IR") from error
    return TensorType(tuple(symbols.dim(size) for size in fake.shape), dtype)


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis; tensors without dimensions count as having one."""
    return axis % rank if rank else 0


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:
    """Non-negative axes; None and the empty list mean all."""
    if axes is None or (isinstance(axes, list | tuple) and not axes):
        return tuple(range(rank))
    chosen = [axes] if isinstance(axes, int) else list(axes)
    return tuple(sorted(axis_of(axis, rank) for axis in chosen)) if rank else ()


def pair(value: Any, rank: int) -> tuple[int, ...]:
    """A number or list as one entry per spatial axis."""
    items = [value] if isinstance(value, int) else list(value)
    return tuple(items * rank if len(items) == 1 else items)


def torch_dtype(value: Value) -> torch.dtype:
    """The torch dtype of a value's elements."""
    found = dtypes.to_torch(value.tensor.dtype)
    assert isinstance(found, torch.dtype)
    return found


def promoted(*operands: Any) -> DType:
    """The element type that torch computes with for these values and Python numbers."""
    # Meta tensors have no elements; `result_type` looks at dtype and whether there are dimensions.
    stand_ins = [
        torch.empty((1,) * min(one.tensor.rank, 1), dtype=torch_dtype(one), device="meta")
        if isinstance(one, Value)
        else one
        for one in operands
    ]
    kind = stand_ins[0]
    found = kind.dtype if len(stand_ins) == 1 else torch.result_type(stand_ins[0], stand_ins[1])
    for other in stand_ins[2:]:
        found = torch.result_type(torch.empty((1,), dtype=found, device="meta"), other)
    try:
        return dtypes.from_torch(found)
    except KeyError as error:
        raise Decline(f"it computes in {found}, an element type that the IR lacks") from error
