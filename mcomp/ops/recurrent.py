"""Recurrent layers: lstm, gru, rnn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Operand, Tolerance, operands, register, total_bytes
from mcomp.ops.checks import need_dim, need_float, need_rank, need_vector, present, same_dtype, stored_elements

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]

_ATTRS = (
    Attr("layers", "int"), Attr("bidirectional", "bool", False), Attr("batch_first", "bool", False),
    Attr("bias", "bool", True), Attr("dynamic", "bool", False),
)


class _Recurrent(Op):
    """What the three have in common.

    Weights come layer by layer, in each layer forward then backward: input weights [gates * H, I], recurrent weights
    [gates * H, P], with `bias` two biases [gates * H], with a projection its weight [P, H]. I is the last size of x in
    the first layer, then directions * P; P is H without a projection.

    dynamic: whatever is multiplied by a weight (x, states, what is projected) is rounded to i8 first, with a scale per
    row from its largest magnitude, as `quantize` does.
    """

    gates: ClassVar[int]
    states: ClassVar[tuple[str, ...]]
    attrs: ClassVar[tuple[Attr, ...]] = _ATTRS
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        need_rank(x, "x", 3)
        need_float(x, "x")
        names = ["x", *self.states]
        weights = types[len(names) :]
        labels = {f"weight {i}": w for i, w in enumerate(weights)}
        same_dtype({**{n: present(types, i, n) for i, n in enumerate(names)}, **labels})
        directions = 2 if attrs["bidirectional"] else 1
        each = 2 + 2 * attrs["bias"] + attrs.get("projection", False)
        if attrs["layers"] < 1 or len(weights) != attrs["layers"] * directions * each:
            raise IRError(
                f"{len(weights)} weights for {attrs['layers']} layers, {directions} directions and {each} weights each"
            )
        recurrent = present(weights, 1, "weight 1")
        need_rank(recurrent, "weight 1", 2)
        hidden, output = dims.floordiv(recurrent.shape[0], self.gates), recurrent.shape[1]
        features: Dim = x.shape[2]
        for layer in range(attrs["layers"]):
            for direction in range(directions):
                at = (layer * directions + direction) * each
                self._check_weights(weights[at : at + each], at, features, hidden, output, attrs)
            features = dims.mul(directions, output)
        batch = x.shape[0 if attrs["batch_first"] else 1]
        for i, name in enumerate(self.states, 1):
            self._check_state(present(types, i, name), name, attrs["layers"] * directions, batch,
                              output if name == "h0" else hidden)
        results = [TensorType((*x.shape[:2], features), x.dtype)]
        results += [TensorType(present(types, i, n).shape, x.dtype) for i, n in enumerate(self.states, 1)]
        return tuple(results)

    def _check_weights(
        self, weights: Types, first: int, features: Dim, hidden: Dim, output: Dim, attrs: Attrs
    ) -> None:
        rows = dims.mul(self.gates, hidden)
        shapes: list[tuple[Dim, ...]] = [(rows, features), (rows, output)]
        shapes += [(rows,), (rows,)] if attrs["bias"] else []
        shapes += [(output, hidden)] if attrs.get("projection") else []
        for i, shape in enumerate(shapes):
            name = f"weight {first + i}"
            type = present(weights, i, name)
            if len(shape) == 1:
                need_vector(type, name, rows, f"{self.gates} times the hidden size")
                continue
            need_rank(type, name, 2)
            for axis, size in enumerate(shape):
                need_dim(type, name, axis, size, "the size that fits the other weights and x")

    def _check_state(self, type: TensorType, name: str, count: int, batch: Dim, size: Dim) -> None:
        need_rank(type, name, 3)
        need_dim(type, name, 0, count, "layers times directions")
        need_dim(type, name, 1, batch, "the batch size of x")
        need_dim(type, name, 2, size, "the size that fits the weights")

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        """2 * steps * stored weights, and ten operations per gate. Weights count as read once."""
        x = present(types, 0, "x")
        steps = dims.mul(x.shape[0], x.shape[1])
        weights = [t for t in types[1 + len(self.states) :] if t is not None]
        stored: Dim = 0
        gates: Dim = 0
        for w in weights:
            if w.rank == 2:
                stored = dims.add(stored, stored_elements(w))
                gates = dims.add(gates, w.shape[0])
        flops = dims.mul(steps, dims.add(dims.mul(2, stored), dims.mul(5, gates)))
        return Cost(flops, total_bytes(types), total_bytes(results))


@register
class Lstm(_Recurrent):
    """Long short-term memory over x[T, B, I] (or [B, T, I]): (y, hn, cn) with y[T, B, directions * P], h0 and
    hn[layers * directions, B, P], c0 and cn[layers * directions, B, H]. Gates: input, forget, cell, output."""

    name = "lstm"
    gates = 4
    states = ("h0", "c0")
    operands: ClassVar[tuple[Operand, ...]] = operands("x", "h0", "c0", "weights*")
    attrs = (*_ATTRS, Attr("projection", "bool", False))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from torch import lstm

        if attrs["dynamic"]:
            return _rounded_layers("lstm", inputs, 2, attrs)
        x, h0, c0, *weights = inputs
        return lstm(
            x, [h0.contiguous(), c0.contiguous()], weights, attrs["bias"], attrs["layers"], 0.0, False,
            attrs["bidirectional"], attrs["batch_first"],
        )


@register
class Gru(_Recurrent):
    """Gated recurrent unit over x[T, B, I] (or [B, T, I]): (y, hn). Gates in the order reset, update, new."""

    name = "gru"
    gates = 3
    states = ("h0",)
    operands: ClassVar[tuple[Operand, ...]] = operands("x", "h0", "weights*")

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from torch import gru

        if attrs["dynamic"]:
            return _rounded_layers("gru", inputs, 1, attrs)
        x, h0, *weights = inputs
        return gru(
            x, h0.contiguous(), weights, attrs["bias"], attrs["layers"], 0.0, False, attrs["bidirectional"],
            attrs["batch_first"],
        )


@register
class Rnn(_Recurrent):
    """Elman recurrence over x[T, B, I] (or [B, T, I]): (y, hn). nonlinearity: tanh or relu."""

    name = "rnn"
    gates = 1
    states = ("h0",)
    operands: ClassVar[tuple[Operand, ...]] = operands("x", "h0", "weights*")
    attrs = (*_ATTRS, Attr("nonlinearity", "str", "tanh"))

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        if attrs["nonlinearity"] not in ("tanh", "relu"):
            raise IRError(f"there is no nonlinearity {attrs['nonlinearity']}", help="use tanh or relu")
        return super().infer(types, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch

        if attrs["dynamic"]:
            return _rounded_layers(attrs["nonlinearity"], inputs, 1, attrs)
        x, h0, *weights = inputs
        function = torch.rnn_tanh if attrs["nonlinearity"] == "tanh" else torch.rnn_relu
        return function(
            x, h0.contiguous(), weights, attrs["bias"], attrs["layers"], 0.0, False, attrs["bidirectional"],
            attrs["batch_first"],
        )


def _rounded_layers(cell: str, inputs: Sequence[Any], states: int, attrs: Attrs) -> tuple[Any, ...]:
    """All layers, step by step, with rounded rows. cell: lstm, gru, or an rnn's nonlinearity."""
    import torch

    x, initial, weights = inputs[0], inputs[1 : 1 + states], list(inputs[1 + states :])
    y = x.transpose(0, 1) if attrs["batch_first"] else x
    directions = 2 if attrs["bidirectional"] else 1
    finals: list[list[Any]] = [[] for _ in range(states)]
    for layer in range(attrs["layers"]):
        outputs = []
        for direction in range(directions):
            matrices = [weights.pop(0), weights.pop(0)]
            biases = [weights.pop(0), weights.pop(0)] if attrs["bias"] else [0.0, 0.0]
            projection = weights.pop(0) if attrs.get("projection") else None
            state = [s[layer * directions + direction] for s in initial]
            steps: list[Any] = []
            given = _rounded(y) @ matrices[0].T + biases[0]
            for now in given.flip(0) if direction else given:
                state = _advance(cell, now, _rounded(state[0]) @ matrices[1].T + biases[1], state, projection)
                steps.append(state[0])
            outputs.append(torch.stack(steps[::-1] if direction else steps))
            for final, s in zip(finals, state):
                final.append(s)
        y = torch.cat(outputs, -1)
    return (y.transpose(0, 1) if attrs["batch_first"] else y, *(torch.stack(f) for f in finals))


def _rounded(x: Any) -> Any:
    """Rows as they are after they were i8."""
    from mcomp.ir import dtypes
    from mcomp.ir.encoding import Affine
    from mcomp.ops.encoded import quantize_tensor

    return quantize_tensor(x, Affine(dtypes.i8, axis=tuple(range(x.dim() - 1)))).decode()


def _advance(cell: str, x: Any, s: Any, state: list[Any], projection: Any) -> list[Any]:
    """The states after a step whose gates receive x from the input and s from the state before."""
    import torch

    if cell == "lstm":
        i, f, g, o = (x + s).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return [h if projection is None else _rounded(h) @ projection.T, c]
    if cell == "gru":
        (xr, xz, xn), (sr, sz, sn) = x.chunk(3, -1), s.chunk(3, -1)
        candidate = torch.tanh(xn + torch.sigmoid(xr + sr) * sn)
        return [(state[0] - candidate) * torch.sigmoid(xz + sz) + candidate]
    return [torch.tanh(x + s) if cell == "tanh" else torch.relu(x + s)]
