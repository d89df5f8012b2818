"""Calibration data: unlabelled batches of arguments, checked once, run through a graph as often as a pass needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcomp.capture import structure
from mcomp.capture.signature import Signature
from mcomp.capture.structure import Spec
from mcomp.errors import BudgetError, CallError
from mcomp.ir.graph import Graph, Node

Call = tuple[tuple[Any, ...], dict[str, Any]]
Observe = Callable[[Node, Sequence[Any]], None]


@dataclass
class Calibration:
    """Batches as flat lists of torch tensors, in the order of the graph's argument inputs."""

    batches: list[list[Any]]
    given: bool = True
    """Whether the user gave the data; otherwise it is the example call."""
    relevant: dict[tuple[int, int], Any] | None = None
    """By batch and number of positions (tokens, pixels) in it, which of these the outputs depend on, bool[positions], where
    not all do; None as long as no pass has looked."""
    looked: int = 0
    """How many of the first batches passes have looked at for that."""
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What passes found out on these batches and others want again, by a name that says all that it depends on."""

    def run(self, graph: Graph, observe: Observe, *, limit: int | None = None) -> None:
        """Interpret the graph on every batch (the first `limit`); `observe(node, outputs)` sees every node's results."""
        from mcomp.ops.evaluate import run_graph

        for batch in self.batches[:limit]:
            run_graph(graph, self.inputs(graph, batch), observe=observe)

    def outputs(self, graph: Graph, *, limit: int | None = None) -> list[list[Any]]:
        """The graph's outputs on every batch."""
        return [self.outputs_of(graph, b) for b in self.batches[:limit]]

    def outputs_of(self, graph: Graph, batch: Sequence[Any]) -> list[Any]:
        """The graph's outputs on one batch."""
        from mcomp.ops.evaluate import run_graph

        return list(run_graph(graph, self.inputs(graph, batch)))

    def inputs(self, graph: Graph, batch: Sequence[Any]) -> list[Any]:
        """The inputs of a graph for a batch: the arguments, then states at their initial value."""
        return [*batch, *initial_states(graph, batch)]

    def __len__(self) -> int:
        return len(self.batches)


def initial_states(graph: Graph, arguments: Sequence[Any]) -> list[Any]:
    """Torch tensors of the graph's state inputs at their initial value."""
    import torch

    from mcomp.ir import dims, dtypes
    from mcomp.ops.encoded import weight_tensor
    from mcomp.ops.evaluate import bind_symbols

    states: list[Any] = []
    symbols: dict[str, int] | None = None
    for value, spec in zip(graph.inputs, graph.input_specs):
        if spec.kind != "state":
            continue
        if spec.initial:
            initial: Any = weight_tensor(graph.store.get(spec.initial))
            states.append(initial.clone())
            continue
        if symbols is None:
            symbols = bind_symbols(graph, [tuple(a.shape) for a in arguments])
        shape = [dims.evaluate(d, symbols) for d in value.tensor.shape]
        states.append(torch.zeros(shape, dtype=dtypes.to_torch(value.tensor.dtype)))
    return states


def as_call(item: Any) -> Call:
    """One calibration item as (args, kwargs): a tuple or list holds positional arguments, a dict keyword arguments, a
    pair of a tuple and a dict both, anything else is the only argument."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], tuple) and isinstance(item[1], dict):
        return item[0], dict(item[1])
    if isinstance(item, (tuple, list)):
        return tuple(item), {}
    if isinstance(item, Mapping):
        return (), dict(item)
    return (item,), {}


def collect_calls(items: Iterable[Any]) -> list[Call]:
    """All calibration items as calls. Raises BudgetError when there are none."""
    try:
        each = iter(items)
    except TypeError as e:
        raise BudgetError(
            f"calibration is {type(items).__name__}, not an iterable of argument tuples", code="MC0501",
            help="pass a list such as [(x,) for x in batches]",
        ) from e
    calls = [as_call(item) for item in each]
    if not calls:
        raise BudgetError(
            "calibration is empty", code="MC0502",
            help="give at least one batch of arguments; a generator that was used up is empty too",
        )
    return calls


def check_calls(calls: Sequence[Call], signature: Signature) -> None:
    """Raise BudgetError, naming the batch and the argument, for a call that the model does not take, or that holds NaN or
    infinity."""
    for index, (args, kwargs) in enumerate(calls):
        try:
            bound = signature.bind(args, kwargs)
        except CallError as e:
            raise _misfit(index, e) from e
        leaves: list[Any] = []
        paths = structure.leaf_paths(structure.describe(bound, leaves))
        for i, leaf in enumerate(leaves):
            if not _is_finite(leaf):
                raise BudgetError(
                    f"calibration batch {index}: {structure.path_text(paths.get(i, ()))} holds NaN or infinity",
                    code="MC0504", help="remove the batch, or clean the data",
                )


def calibration_from(
    calls: Sequence[Call], signature: Signature, arguments: Spec, graph: Graph, *, given: bool = True
) -> Calibration:
    """Check calls against how the model is called and make them a Calibration for its graph.

    Raises BudgetError, naming the batch and the argument, for a call that does not fit.
    """
    import torch

    from mcomp.ir import dtypes
    from mcomp.ops.evaluate import bind_symbols

    names = [structure.path_text(p) for _, p in sorted(structure.leaf_paths(arguments).items())]
    batches: list[list[Any]] = []
    for index, (args, kwargs) in enumerate(calls):
        leaves: list[Any] = []
        try:
            structure.collect(arguments, signature.bind(args, kwargs), leaves)
            tensors = [leaf if isinstance(leaf, torch.Tensor) else torch.from_numpy(leaf) for leaf in leaves]
            element_types = [dtypes.from_torch(t.dtype) for t in tensors]
            bind_symbols(graph, [tuple(t.shape) for t in tensors], element_types, names=names)
        except CallError as e:
            raise _misfit(index, e) from e
        batches.append([t.detach().clone() if t.is_inference() else t.detach() for t in tensors])
    return Calibration(batches, given)


def _misfit(index: int, error: CallError) -> BudgetError:
    return BudgetError(
        f"calibration batch {index} does not fit the model: {error.message}", code="MC0503",
        help="each item is a tuple of the model's arguments, shaped as in a call; labels do not belong there",
    )


def _is_finite(leaf: Any) -> bool:
    import torch

    tensor = torch.as_tensor(leaf).detach()
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())
