"""Two graphs walked side by side over calibration data: layers of the narrower one are fitted to the dense one in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir.edit import Editor
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.ops.encoded import decoded
from mcomp.passes.analysis.liveness import Intervals, Liveness
from mcomp.passes.compress.algebra import solve
from mcomp.passes.compress.moments import PLENTY, ROWS, TOGETHER, as_weight, weight_matrix
from mcomp.passes.compress.readers import too_wide
from mcomp.passes.compress.reading import Draw, clean, window_of
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 3 << 29
"""Bytes of intermediate results of both graphs that are held for all batches at once."""
_DAMPINGS = (1e-3, 1e-4, 1e-2, 1e-1, 1.0)
"""Dampings that are tried."""
_STRONG = (10.0, 100.0)
"""Those that are tried, too, where positions are few for the inputs."""
_WIDE = 1024
"""Inputs from which only every second damping is tried."""
_STRETCH = 1.5
"""Most that a channel is scaled by to give back the deviation that least squares takes."""


class Walk:
    """One graph run node by node over several batches; holds what later nodes need."""

    def __init__(self, graph: Graph, inputs: Sequence[Sequence[Any]]) -> None:
        from mcomp.ops.evaluate import bind_inputs

        self.graph = graph
        self.nodes = [n for n in graph.nodes if n.op.name != "const"]
        self.places = {n: i for i, n in enumerate(self.nodes)}
        self.at = 0
        self.symbols = [dict(bind_inputs(graph, given)) for given in inputs]
        self.values: list[dict[Value, Any]] = [dict(zip(graph.inputs, given)) for given in inputs]
        self._dead: dict[Node, list[Value]] = {}
        last: dict[Value, Node] = {}
        for node in self.nodes:
            for value in (*node.operands, *node.results):
                if value is not None:
                    last[value] = node
        for value, node in last.items():
            self._dead.setdefault(node, []).append(value)

    def before(self, node: Node) -> None:
        """Run everything before a node."""
        self._until(self.places[node])

    def through(self, node: Node) -> None:
        """Run everything before a node and the node; its results are held until the walk goes on."""
        self._until(self.places[node] + 1)

    def done(self, node: Node) -> bool:
        """Whether a node has run."""
        return self.places[node] < self.at

    def read(self, batch: int, value: Value) -> Any:
        """A value, decoded. Raises KeyError when it has not been computed or nothing needs it any longer."""
        if value.is_const:
            return decoded(self._constant(value))
        return decoded(self.values[batch][value])

    def holds(self, value: Value) -> bool:
        """Whether a value can be read."""
        return value.is_const or all(value in held for held in self.values)

    def _constant(self, value: Value) -> Any:
        from mcomp.ops.evaluate import constant

        assert value.producer is not None
        return constant(value.producer)

    def _until(self, end: int) -> None:
        from mcomp.ops.evaluate import run_node

        while self.at < end:
            if self.at:
                self._forget(self.nodes[self.at - 1])
            node = self.nodes[self.at]
            for held, symbols in zip(self.values, self.symbols):
                operands = [
                    None if v is None else self._constant(v) if v.is_const else held[v] for v in node.operands
                ]
                held.update(zip(node.results, run_node(node, operands, symbols)))
            self.at += 1

    def _forget(self, node: Node) -> None:
        for value in self._dead.get(node, ()):
            for held in self.values:
                held.pop(value, None)


@dataclass(frozen=True)
class Fit:
    """What a layer's fit gave: the relative L2 difference of its outputs from the dense layer's, before and after."""

    before: float
    after: float


class Lockstep:
    """Fits layers of `student` to those of `dense` with the same names, one after another in the order of the graph.

    `outputs(node)`: which of the dense layer's outputs the student's layer has (None: all). `damping`: of the least squares;
    None: what one half of the data finds best for the other. `variance`: outputs of convolutions are scaled to deviate as
    the dense ones do.
    """

    def __init__(
        self, dense: Graph, student: Graph, context: Context, *, outputs: Callable[[Node], np.ndarray | None],
        limit: int, damping: float | None, variance: bool = True, rows: int = ROWS,
    ) -> None:
        calibration = context.calibration
        assert calibration is not None
        self.context = context
        self.batches = affordable(dense, context, calibration, limit)
        batches = calibration.batches[: self.batches]
        self.dense = Walk(dense, [calibration.inputs(dense, b) for b in batches])
        self.student = Walk(student, [calibration.inputs(student, b) for b in batches])
        self.outputs = outputs
        self.damping = damping
        self.variance = variance
        self.draw = Draw(calibration, self.batches, rows)

    def fit(self, node: Node, editor: Editor | None) -> Fit | None:
        """Fit one linear or conv of the student with a dense constant weight; without an editor, only measure it. None, with
        a remark, where no data reached it."""
        import torch

        twin = self.dense.graph.value(node.result.name).producer
        assert twin is not None
        with torch.no_grad():
            self.student.before(node)
            joined = self._joined(node, twin)
            if not self.dense.done(twin):
                self.dense.through(twin)
            halves = (_Sums(), _Sums())
            own: list[Tensor] = [self.dense.read(b, twin.result) for b in range(self.batches)]
            if joined is not None:
                self.dense.through(joined[0])
            for b in range(self.batches):
                self._add(halves, node, b, own[b], joined)
            sums = halves[0].joined(halves[1])
            if not sums.count:
                label = "fit" if editor is None else editor.label
                self.context.missed(label, node, "it is not fitted: calibration data never reached it",
                                    "give data that uses it")
                return None
            weight = weight_matrix(node)
            bias = bias_of(node, weight)
            before = sums.error(weight, bias)
            if editor is None:
                return Fit(before, before)
            damping = self.damping if self.damping is not None else _best_damping(halves, weight)
            found, shift = sums.regress(weight, damping)
            if self.variance and node.op.name == "conv":
                found, shift = sums.restore(found, shift)
            after = sums.error(found, shift)
            store(editor, node, found, shift)
            return Fit(before, after)

    def moved(self, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
        """How the mean of every channel (axis 1) of what a node reads differs from the dense graph's, and by what factor its
        variance does. None where no data reached it."""
        import torch

        twin = self.dense.graph.value(node.result.name).producer
        assert twin is not None
        with torch.no_grad():
            self.student.before(node)
            if not self.dense.done(twin):
                self.dense.before(twin)
            found = []
            for walk, value, columns in (
                (self.student, node.operand(0), None), (self.dense, twin.operand(0), self.outputs(node)),
            ):
                given = [walk.read(b, value).movedim(1, -1) for b in range(self.batches)]
                data = torch.cat([x.reshape(-1, x.shape[-1]) for x in given]).double()
                found.append(data if columns is None else data[:, torch.from_numpy(columns)])
            student, dense = found
            if not len(student) or not len(dense):
                return None
            spread = dense.var(0, correction=0)
            ratio = student.var(0, correction=0) / spread.clamp(min=1e-30)
            still = spread <= 0
            return (student.mean(0) - dense.mean(0)).numpy(), torch.where(still, torch.ones_like(ratio), ratio).numpy()

    def _joined(self, node: Node, twin: Node) -> tuple[Node, Value, Value] | None:
        """The addition that a layer's result goes into, and what is added to it in both graphs, where the student has it
        already: the layer can then make up for what the sum has lost before."""
        user = node.result.users
        if len(user) != 1 or user[0].op.name != "add" or self.student.graph.is_output(node.result):
            return None
        total = user[0]
        others = [v for v in total.operands if v is not node.result]
        dense_total = twin.result.users[0] if len(twin.result.users) == 1 else None
        if len(others) != 1 or others[0] is None or dense_total is None or dense_total.op.name != "add":
            return None
        if dense_total.name != total.name:
            return None  # what the dense result is added to first is gone
        between = self.dense.nodes[self.dense.places[twin] + 1 : self.dense.places[dense_total]]
        if others[0].tensor.shape != node.type.shape or others[0].is_const or not self.student.holds(others[0]):
            return None
        if any(n.op.name in ("linear", "conv") for n in between):
            return None
        return dense_total, dense_total.result, others[0]

    def _add(
        self, halves: tuple[_Sums, _Sums], node: Node, b: int, own: Tensor, joined: tuple[Node, Value, Value] | None
    ) -> None:
        """Add a batch to one half, every second to the other; an only batch is divided."""
        import torch

        self.draw.batch = b
        kept = self.outputs(node)
        columns = None if kept is None else torch.from_numpy(kept)
        window = window_of(node)
        chosen = self.draw(_positions(node, own), window.width)
        reference = picked = clean(_rows(node, own, columns, chosen)).double()
        if joined is not None:
            _, total, other = joined
            given, before = self.dense.read(b, total), self.student.read(b, other)
            picked = clean(_rows(node, given, columns, chosen) - _rows(node, before, None, chosen)).double()
        at = 0
        for part in window.rows(self.student.read(b, node.operand(0)), self.draw):
            stop = at + part.shape[1]
            cut = min(max(len(picked) // 2 - at, 0), stop - at) if self.batches == 1 else (0, stop - at)[b % 2]
            for half, low, high in ((halves[1], 0, cut), (halves[0], cut, stop - at)):
                if low < high:
                    groups, rows = part.shape[0], slice(at + low, at + high)
                    half.add(part[:, low:high].double(), _grouped(picked[rows], groups), _grouped(reference[rows], groups))
            at = stop


def _positions(node: Node, y: Tensor) -> int:
    """How many positions a layer's result has."""
    return math.prod(y.shape[:1] + y.shape[2:] if node.op.name == "conv" else y.shape[:-1])


def _rows(node: Node, y: Tensor, columns: Tensor | None, chosen: Tensor | None) -> Tensor:
    """What a layer gives at some positions (None: all), [positions, outputs]; of the outputs those in `columns`."""
    import torch

    if node.op.name != "conv":
        flat = y.reshape(-1, y.shape[-1])
        flat = flat if chosen is None else flat[chosen]
    elif chosen is None:
        flat = y.flatten(2).transpose(1, 2).reshape(-1, y.shape[1])
    else:
        pixels = y.flatten(2)
        flat = pixels[torch.div(chosen, pixels.shape[2], rounding_mode="floor"), :, chosen % pixels.shape[2]]
    return flat if columns is None else flat[:, columns]


def _grouped(rows: Tensor, groups: int) -> Tensor:
    return rows.reshape(len(rows), groups, -1).transpose(0, 1)


def bias_of(node: Node, weight: Tensor) -> Tensor:
    """The bias of a linear or conv with a weight [G, N, K] as float64 [G, N]; zeros without one."""
    import torch

    value = node.maybe(2)
    if value is None or value.weight is None:
        return torch.zeros(weight.shape[:2], dtype=torch.float64)
    return torch.from_numpy(np.array(value.weight.decode(), np.float64)).reshape(weight.shape[:2])


def _best_damping(halves: tuple[_Sums, _Sums], weight: Tensor) -> float:
    """The damping with which fits to either half make the least error on the other."""
    first, second = halves
    if not first.count or not second.count:
        return _DAMPINGS[0]
    width = weight.shape[-1]
    tried = _DAMPINGS[:: 1 if width <= _WIDE else 2]
    if first.count + second.count < PLENTY * width:
        tried += _STRONG
    errors = [
        second.error(*first.regress(weight, d)) ** 2 + first.error(*second.regress(weight, d)) ** 2 for d in tried
    ]
    return tried[min(range(len(tried)), key=errors.__getitem__)]


class _Sums:
    """Sums over positions of inputs x [G, K] and targets y [G, N]; `own` is what the dense layer itself gives."""

    def __init__(self) -> None:
        self.gram: Any = 0.0
        self.cross: Any = 0.0
        self.inputs: Any = 0.0
        self.targets: Any = 0.0
        self.squares: Any = 0.0
        self.own: float = 0.0
        self.count = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor, own: Tensor) -> None:
        """Rows x [G, P, K], y and own [G, P, N]."""
        self.own += float(own.square().sum())
        self.count += x.shape[1]
        self._waiting.append((x, y))
        if sum(rows.shape[1] for rows, _ in self._waiting) >= TOGETHER:
            self._multiply()

    def _multiply(self) -> None:
        """Add up what waits."""
        import torch

        if not self._waiting:
            return
        x, y = (torch.cat(parts, 1) for parts in zip(*self._waiting))
        self._waiting = []
        self.gram = self.gram + x.transpose(-1, -2) @ x
        self.cross = self.cross + x.transpose(-1, -2) @ y
        self.inputs = self.inputs + x.sum(1)
        self.targets = self.targets + y.sum(1)
        self.squares = self.squares + y.square().sum(1)

    def joined(self, other: _Sums) -> _Sums:
        """The sums over the positions of both."""
        self._multiply()
        other._multiply()
        both = _Sums()
        both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
        both.inputs, both.targets = self.inputs + other.inputs, self.targets + other.targets
        both.squares, both.own, both.count = self.squares + other.squares, self.own + other.own, self.count + other.count
        return both

    def _centered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Covariance of x [G, K, K], of x and y [G, K, N], means of x and y."""
        self._multiply()
        n = self.count
        x, y = self.inputs / n, self.targets / n
        return self.gram / n - x[..., :, None] * x[..., None, :], self.cross / n - x[..., :, None] * y[..., None, :], x, y

    def regress(self, weight: Tensor, damping: float) -> tuple[Tensor, Tensor]:
        """Weight and bias with the least squared error, damped towards `weight`."""
        covariance, cross, x, y = self._centered()
        missing = cross - covariance @ weight.transpose(-1, -2)
        found = weight + solve(covariance, missing, damping).transpose(-1, -2)
        return found, y - (found @ x[..., None])[..., 0]

    def restore(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Every output scaled around its mean to deviate as the target does, and never less than fitted."""
        import torch

        covariance, _, x, y = self._centered()
        wanted = (self.squares / self.count - y.square()).clamp(min=0)
        given = ((weight @ covariance) * weight).sum(-1).clamp(min=0)
        ratio = torch.where(given > 0, (wanted / given.clamp(min=1e-30)).sqrt(), torch.ones_like(given))
        scaled = weight * ratio.clamp(1.0, _STRETCH)[..., None]
        return scaled, y - (scaled @ x[..., None])[..., 0]

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """The root of the squared difference from the target, relative to what the dense layer gives."""
        covariance, cross, x, y = self._centered()
        variance = self.squares / self.count - y.square()
        gap = (weight @ x[..., None])[..., 0] + bias - y
        square = variance - 2 * (weight * cross.transpose(-1, -2)).sum(-1) + ((weight @ covariance) * weight).sum(-1)
        whole = self.own / self.count
        missing = max(0.0, float((square + gap.square()).sum()))
        return 0.0 if missing == 0.0 else float((missing / whole) ** 0.5) if whole > 0 else float("inf")


def store(editor: Editor, node: Node, weight: Tensor, bias: Tensor) -> None:
    """Put a weight [G, N, K] and a bias [G, N] into a linear or conv; a bias that was missing is added."""
    type = node.operand(1).tensor
    old = node.operand(1).producer
    assert old is not None
    loc = fused(editor.label, node.loc)
    dtype = type.dtype.numpy if type.dtype.name in ("f32", "f64") else np.dtype(np.float32)
    data = as_weight(weight, type.static_shape).astype(dtype)
    fresh = editor.const(data, name=old.attrs["name"], loc=old.loc, before=node)
    vector = bias.reshape(-1).float().numpy().astype(dtype)
    held = node.maybe(2)
    name = held.producer.attrs["name"] if held is not None and held.producer is not None else f"{node.name}.bias"
    shift = editor.const(vector, name=name, loc=loc, before=node)
    before = (node.operand(1), held)
    editor.set_operands(node, (node.operand(0), fresh, shift))
    editor.set_loc(node, loc)
    for value, new in zip(before, (fresh, shift)):
        if value is not None and value.producer is not None and value.is_const and not value.uses:
            editor.replace(value, new)
            editor.erase(value.producer)


def affordable(graph: Graph, context: Context, calibration: Calibration, limit: int) -> int:
    """How many batches can be held at once (at least one)."""
    intervals: Intervals = context.analyze(graph, Liveness())
    from mcomp.ops.evaluate import bind_inputs

    left, count = MEMORY, 0
    for batch in calibration.batches[:limit]:
        left -= 2 * intervals.peak(bind_inputs(graph, calibration.inputs(graph, batch)), inputs=True)[0]
        if left < 0 and count:
            break
        count += 1
    return count


def fitted(node: Node) -> bool:
    """Whether a node is a layer that can be fitted."""
    if node.op.name not in ("linear", "conv") or node.operand(1).weight is None:
        return False
    if too_wide(node):
        return False
    type, bias = node.operand(1).tensor, node.maybe(2)
    plain = type == type.dense() and type.dtype.name in ("f32", "f64")
    return plain and (bias is None or bias.weight is not None)

