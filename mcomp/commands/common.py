"""What commands share: opening files, references to Python functions, tables."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mcomp.errors import ArtifactError, McompError, ParseError
from mcomp.ir.graph import Graph
from mcomp.ir.parser import parse_graph
from mcomp.ir.store import WeightStore

INPUTS = ".npy or .npz with arguments, in order; where all arrays of .npz files have names of inputs, by these"
"""What `--input` takes."""


def open_graph(path: str, weights: str | None = None, *, runs: bool = True) -> Graph:
    """The graph of a `.mcomp` file, or of IR text (`-`: standard input) whose weights are in the file `weights`, beside it
    (`<its name>.weights.safetensors`, `weights.safetensors`), or made up (`@w#seed=1`). `runs`: it will be run, so that a
    `.mcomp` file may call operators of the allow-list only. Raises ArtifactError and ParseError."""
    place = Path(path)
    if place.is_dir():
        place = place / "graph.mir"
    if place.suffix == ".mcomp":
        return _graph_of_file(place, runs)
    text = sys.stdin.read() if path == "-" else _text_of(place)
    store = WeightStore()
    for file in [Path(weights)] if weights is not None else _weights_beside(place):
        from mcomp.manager.instruments.reproducer import read_weights

        read_weights(file, store)
    try:
        return parse_graph(text, store, generate=True)
    except ParseError as e:
        if "weight with digest" not in e.message:
            raise
        raise ParseError(
            e.message, code=e.code, where=path, ir=e.ir,
            help="give the file that holds the weights with --weights, or put it beside the graph as weights.safetensors; "
            "in the text, @name#seed=1 makes weights up",
        ) from e


def _text_of(place: Path) -> str:
    try:
        return place.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{place} cannot be read: {e}", code="MC0704",
                            help="give a .mcomp file, a .mir file, or a folder with graph.mir") from e


def weights_of(place: Path) -> Path:
    """Where a command writes the weights of a graph that it writes to `place`: `out.mir` has `out.weights.safetensors`."""
    return place.with_name(f"{place.stem}.weights.safetensors")


def _weights_beside(place: Path) -> list[Path]:
    if str(place) == "-":
        return []
    return [p for p in (weights_of(place), place.with_name("weights.safetensors")) if p.exists()]


def _graph_of_file(place: Path, runs: bool) -> Graph:
    from mcomp.runtime.artifact import ArtifactReader
    from mcomp.runtime.safety import check_opaque

    graph = ArtifactReader(place).graph()
    if runs:
        check_opaque(graph)
    return graph


_REFERENCE_HELP = "write package.module:function or file.py:function"


@dataclass
class Source:
    """A model and what goes with it, as a user's function gives it; see `mcomp.optimize`."""

    model: Any
    args: Any = None
    kwargs: dict[str, Any] | None = None
    calibration: Iterable[Any] | None = None
    evaluate: Any = None
    dynamic: Any = None
    layers: Mapping[str, Mapping[str, Any]] | None = None
    students: Mapping[str, Any] | None = None
    seed: int = 0


def find_reference(reference: str) -> Any:
    """The object that `package.module:name` or `file.py:name` names.

    This runs the user's Python; it is meant for the user's own code.
    """
    module_name, _, function_name = reference.rpartition(":")
    if not module_name:
        raise McompError(f"{reference} names no function", code="MC0801", help=_REFERENCE_HELP)
    if module_name.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
        if spec is None or spec.loader is None or not Path(module_name).exists():
            raise McompError(f"there is no file {module_name}", code="MC0801", help=_REFERENCE_HELP)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        sys.path.insert(0, str(Path(module_name).resolve().parent))
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, "")
        try:
            module = importlib.import_module(module_name)
        except ImportError as e:
            raise McompError(f"{module_name} cannot be imported: {e}", code="MC0801", help=_REFERENCE_HELP) from e
    function = getattr(module, function_name, None)
    if function is None:
        raise McompError(f"{module_name} has no {function_name}", code="MC0801", help=_REFERENCE_HELP)
    return function


def open_source(reference: str) -> Source:
    """What a user's function returns: a module, a pair of module and arguments, or a dict of `Source`'s fields."""
    found = find_reference(reference)
    if callable(found) and not hasattr(found, "forward"):
        found = found()
    if isinstance(found, dict):
        unknown = sorted(found.keys() - Source.__dataclass_fields__.keys())
        if unknown or "model" not in found:
            fault = f"with {unknown[0]!r}" if unknown else "without 'model'"
            raise McompError(
                f"{reference} returned a dict {fault}", code="MC0803",
                help=f"its keys are {', '.join(Source.__dataclass_fields__)}",
            )
        return Source(**found)
    if isinstance(found, tuple) and len(found) == 2:
        return Source(found[0], found[1])
    return Source(found)


def writable(path: str) -> None:
    """Raise ArtifactError when a file cannot be written to `path`: better before long work than after it."""
    place = Path(path)
    reason = ""
    if place.is_dir():
        reason = "it is a folder"
    elif not place.parent.is_dir():
        reason = f"there is no folder {place.parent}"
    elif not os.access(place.parent, os.W_OK):
        reason = f"the folder {place.parent} is not writable"
    if reason:
        raise ArtifactError(f"{path} cannot be written: {reason}", code="MC0702", help="choose another place with --output")


def parse_sizes(items: Sequence[str]) -> dict[str, int]:
    """`["B=8", "S=128"]` as a dict."""
    sizes = {}
    for item in items:
        name, _, value = item.partition("=")
        if not value.isdigit():
            raise McompError(f"{item} gives no size", code="MC0802", help="write a symbol and a number, such as B=8")
        sizes[name] = int(value)
    return sizes


def made_up_sizes(arguments: argparse.Namespace) -> dict[str, int]:
    """What `--size` says of made-up inputs. Raises McompError where `--input` gives the inputs, which have sizes."""
    if arguments.input and arguments.size:
        raise McompError("--size is for made-up inputs, and --input gives the inputs", code="MC0802",
                         help="leave out one of them")
    return parse_sizes(arguments.size)


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Sizes as `--size` takes them: `B=8, S=128`."""
    return ", ".join(f"{symbol}={size}" for symbol, size in sizes.items())


def tell_sizes(sizes: Mapping[str, int], file: TextIO | None = None) -> None:
    """Print the sizes that a command runs at, where there are any."""
    if sizes:
        print(f"sizes: {sizes_text(sizes)}", file=file)


def emit_json(data: Any) -> None:
    """Print JSON for programs; NaN and infinities, which JSON lacks, as null."""
    print(json.dumps(_finite(data), indent=1, default=str, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data


def print_table(title: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: coloured on a terminal, plain elsewhere. Columns are (name, "l" or "r")."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(emoji=False)
    if not console.is_terminal:
        console = Console(width=160, emoji=False)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "r" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)
