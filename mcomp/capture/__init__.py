"""From a PyTorch model to a graph. `structure`, `signature`, `mutation` and `program` need no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from mcomp.capture.program import Call, Captured
    from mcomp.ir.store import WeightStore


def capture(
    model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, dynamic: Any = None,
    others: Sequence[Call] = (), store: WeightStore | None = None,
) -> Captured:
    """Capture a model for example arguments; see `Captured` for what comes back.

    The model is not changed, and later changes of it change nothing here: weights are copied into `store`. Batch sizes
    are symbolic wherever the model allows; so are sizes that differ between the example and `others`, further calls as
    (args, kwargs), and those that `dynamic` names: `{"input_ids": {1: "S"}}`, with bounds `{"x": {2: ("L", 1, 512)}}`,
    None keeps an axis fixed; True makes every size symbolic, False none.

    Raises CaptureError for a model in training mode and for `dynamic` that names what is not there, CallError for
    arguments that the model does not take. A model that cannot be exported whole comes back in parts.
    """
    from mcomp.capture.model import capture_model

    return capture_model(model, args, kwargs or {}, dynamic=dynamic, others=others, store=store)
