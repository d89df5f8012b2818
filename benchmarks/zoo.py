"""A zoo of tiny models with random weights: what capture, and every backend, is tried on.

Each entry builds a model from a configuration alone (nothing is downloaded) and makes inputs at any batch size, both
from fixed seeds. Weights are drawn so that every layer matters to the output: libraries' default initializations
leave attention scores near zero, which would hide a wrong mask or position.

    for entry in zoo.entries():
        model = entry.build()
        args, kwargs = entry.inputs(batch=2)
        model(*args, **kwargs)
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
REMARKS = {
    "longformer": "its code asks whether any token has global attention and takes another way if one has",
    "vilt": "it draws the patches that it looks at, as many as the values of its pixel mask say",
    "switch": "it loops over the experts that tokens were sent to, and casts weights while it runs",
    "nystromformer": "tracing always makes a mask of [batch, 1, tokens, tokens], which its landmarks do not take; with "
    "padding the model fails in eager mode too",
}
"""What is known of models that fall short, by name."""

MODULES = ("text_encoders", "decoders", "state_space", "encoder_decoders", "vision", "audio", "series", "plain")


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    `make_model` builds the module, `make_inputs` takes a batch size and gives positional and keyword arguments.
    `library` is the package that the model comes from: "transformers" or "torch".
    """

    name: str
    family: str
    make_model: Callable[[], nn.Module]
    make_inputs: Callable[[int], Inputs]
    library: str = "transformers"
    stateful: bool = False

    def build(self) -> nn.Module:
        """The model in eval mode, the same weights at every call."""
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.make_model().eval()
            enliven(model)
        return model

    def inputs(self, batch: int = 2) -> Inputs:
        """Positional and keyword arguments for `batch` samples, the same values at every call."""
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(1000 + batch)
            return self.make_inputs(batch)


def enliven(model: nn.Module) -> None:
    """Redraw weights in place so that scores, gates and normalizations have magnitude near one.

    Matrices and kernels are drawn with variance 1 / fan-in, biases, scales and running statistics are moved off
    their neutral values. Parameters of other modules keep the library's initialization.
    """
    import torch
    from torch import nn

    def redraw(parameter: torch.Tensor | None, spread: float, centre: float = 0.0) -> None:
        if parameter is not None:
            parameter.copy_(centre + spread * torch.randn(parameter.shape))

    with torch.no_grad():
        for module in model.modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and not _is_parametrized(module):
                redraw(weight, (module.weight[0].numel() or 1) ** -0.5)
                redraw(bias, 0.1)
            elif isinstance(module, nn.Embedding):
                redraw(weight, 0.7)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx].zero_()
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d):
                redraw(weight, 0.1, 1.0)
                redraw(bias, 0.1)
                if isinstance(getattr(module, "running_var", None), torch.Tensor):
                    module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape))
                    module.running_var.copy_(0.5 + torch.rand(module.running_var.shape))


def _is_parametrized(module: nn.Module) -> bool:
    return hasattr(module, "parametrizations")


def entries(pattern: str = "*") -> Iterator[Entry]:
    """The entries whose name or family matches `pattern`, which is a comma-separated list of shell patterns."""
    patterns = pattern.split(",")
    for module in MODULES:
        for entry in importlib.import_module(f"benchmarks.zoo_models.{module}").ENTRIES:
            if any(fnmatch.fnmatch(entry.name, one) or fnmatch.fnmatch(entry.family, one) for one in patterns):
                yield entry


def find(name: str) -> Entry:
    """The entry called `name`; KeyError when there is none."""
    for entry in entries():
        if entry.name == name:
            return entry
    raise KeyError(f"no model {name!r} in the zoo; it has {', '.join(entry.name for entry in entries())}")


def main() -> int:
    """List the zoo: build each model, run it, print its size."""
    import torch

    parser = argparse.ArgumentParser(description="List the models of the zoo")
    parser.add_argument("--models", default="*", help="comma-separated name or family patterns")
    options = parser.parse_args()
    torch.manual_seed(0)
    for entry in entries(options.models):
        start = time.perf_counter()
        model = entry.build()
        args, kwargs = entry.inputs(2)
        with torch.no_grad():
            output = model(*args, **kwargs)
        count = sum(parameter.numel() for parameter in model.parameters())
        elapsed = time.perf_counter() - start
        print(f"{entry.name:28} {entry.family:16} {count:>9,} parameters  {elapsed:5.2f} s  {type(output).__name__}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
