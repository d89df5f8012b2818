"""torch.export with the retries that real models need, and a reason for each."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from mcomp.capture.importing import IMPORTERS
from mcomp.capture.shim import Seen, Shim
from mcomp.capture.sizes import Choice
from mcomp.errors import CaptureError
from mcomp.ir.dims import Bounds

tracing: Any = _config


@dataclass(frozen=True)
class Exported:
    """An exported program, functional, with linear, attention and norms whole; the structures seen while tracing; the
    dimensions that stayed symbolic as asked; how it was exported; remarks on what did not go as asked."""

    program: ExportedProgram
    seen: Seen
    choice: Choice
    attempt: Attempt
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Attempt:
    """One way to export. `sizes`: named (symbols as chosen, equal names are equal sizes), free (each dimension on its
    own; torch finds relations and may specialize) or static. `oblivious`: nothing is assumed of symbolic sizes;
    otherwise torch takes them to be two or more. `doubled`: dimensions of size one are traced at two."""

    sizes: str
    strict: bool = False
    oblivious: bool = False
    doubled: bool = False

    def __str__(self) -> str:
        words = [self.sizes + " sizes", "strict" if self.strict else "non-strict"]
        words += [word for word, on in (("oblivious", self.oblivious), ("traced at two", self.doubled)) if on]
        return ", ".join(words)


def attempts(choice: Choice, tensors: Sequence[torch.Tensor]) -> list[Attempt]:
    """The ways to try, best first."""
    ones = any(tensors[tensor].shape[axis] == 1 for tensor, axis in choice)
    ways: list[Attempt] = []
    if choice:
        ways = [Attempt("named", oblivious=True), Attempt("named", doubled=ones), Attempt("free", doubled=ones)]
    ways.append(Attempt("static"))
    if choice:
        ways.append(Attempt("free", strict=True, doubled=ones))
    ways.append(Attempt("static", strict=True))
    return ways


def export(shim: Shim, tensors: Sequence[torch.Tensor], choice: Choice) -> Iterator[Exported]:
    """Exported programs, best first; the caller takes the first that it can convert.

    Raises CaptureError with every reason when no way works.
    """
    failures: list[str] = []
    errors: dict[bool, Exception] = {}
    for attempt in attempts(choice, tensors):
        if attempt.strict in errors and not _may_help(attempt, errors[attempt.strict]):
            continue
        try:
            exported = _export_within_bounds(shim, tensors, choice, attempt, failures)
        except Exception as error:
            if not attempt.oblivious or _about_values(error):
                errors[attempt.strict] = error
            failures.append(f"{attempt}: {type(error).__name__}: {_first_lines(error)}")
            continue
        yield exported
        failures.append(f"{attempt}: the exported program could not be converted")
    raise CaptureError("the model cannot be exported whole: " + _summary(failures))


def _export_within_bounds(
    shim: Shim, tensors: Sequence[torch.Tensor], choice: Choice, attempt: Attempt, failures: Sequence[str]
) -> Exported:
    """Export; where the model works up to a largest size only (a table of positions), with sizes bounded by it."""
    for _ in range(_REFINEMENTS):
        try:
            return _export(shim, tensors, choice, attempt, failures)
        except UserError as error:
            refined = _bounded(choice, str(error)) if attempt.sizes == "named" else None
            if refined is None:
                raise
            choice = refined
    return _export(shim, tensors, choice, attempt, failures)


_REFINEMENTS = 3
_SUGGESTED = re.compile(r"\w+ = Dim\('(\w+)'(?:, min=(\d+))?, max=(\d+)\)")
_CLIPPED = re.compile(r"Not all values of (\w+) = .* generated guard .* == min\((\d+), ")


def _bounded(choice: Choice, message: str) -> Choice | None:
    """The choice with the upper bounds that torch's message asks for; None when it asks for none that is new."""
    limits = {name: int(high) for name, _, high in _SUGGESTED.findall(message)}
    limits |= {name: int(high) for name, high in _CLIPPED.findall(message)}
    refined: Choice = {}
    for place, size in choice.items():
        known = size.bounds or Bounds()
        limit = limits.get(size.name)
        narrower = limit is not None and limit > known.low and (known.high is None or limit < known.high)
        refined[place] = replace(size, bounds=Bounds(known.low, limit)) if narrower else size
    return refined if refined != choice else None


def _export(
    shim: Shim, tensors: Sequence[torch.Tensor], choice: Choice, attempt: Attempt, failures: Sequence[str]
) -> Exported:
    shapes = {"tensors": _dynamic_shapes(tensors, choice, attempt)} if tensors else None
    example = tuple(_doubled(t, i, choice) if attempt.doubled else t for i, t in enumerate(tensors))
    calls = shim.calls
    calls.clear()
    with _quiet(), torch.no_grad(), tracing.patch(backed_size_oblivious=attempt.oblivious):
        program = torch.export.export(shim, example, dynamic_shapes=shapes, strict=attempt.strict)
        program = program.run_decompositions(decompositions())
    if not calls:
        raise CaptureError("the structure of the results was not seen while tracing")
    _check_guards(program, tensors, choice, attempt)
    remarks = []
    if attempt.sizes == "static" and choice:
        remarks.append(f"captured for fixed sizes only: {_summary(failures)}")
    if attempt.strict:
        remarks.append(f"captured in strict mode: {_summary(failures)}")
    kept = {} if attempt.sizes == "static" else choice
    return Exported(program, calls[0], kept, attempt, tuple(remarks))


_INEXPRESSIBLE = re.compile(
    r"%|\b(Mod|PythonMod|min|max|or)\b|!= (?![01]$)|[<>].*size\(\).*size\(\)|size\(\).*[<>].*size\(\)"
)
"""Guards that shapes and ranges do not imply: divisibility, clipping, single sizes, orders between sizes. (`!= 0` and `!= 1`
come from strides, which the graph does not depend on.)"""


def _check_guards(
    program: ExportedProgram, tensors: Sequence[torch.Tensor], choice: Choice, attempt: Attempt
) -> None:
    """Raise CaptureError where the program holds for fewer sizes than its shapes and ranges say: with free sizes torch
    turns branches over them into guards, of which only bounds and equal sizes can be told from the shapes."""
    guards = [g for g in getattr(program, "_guards_code", []) if _INEXPRESSIBLE.search(g)]
    if attempt.sizes == "free" and guards:
        raise CaptureError(f"what the model does depends on sizes: {guards[0]}")
    if not attempt.doubled:
        return
    names = set(program.graph_signature.user_inputs)
    given = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    for tensor, axis in choice:
        if tensors[tensor].shape[axis] == 1 and isinstance(given[tensor].meta["val"].shape[axis], int):
            raise CaptureError("traced at two, the model ties a size of one down to that")


def decompositions() -> Any:
    """torch's decompositions of operators that we do not import; ours stay whole."""
    table = torch.export.default_decompositions()
    for operator in list(table):
        if str(operator) in IMPORTERS:
            del table[operator]
    return table


def _dynamic_shapes(tensors: Sequence[torch.Tensor], choice: Choice, attempt: Attempt) -> tuple[Any, ...]:
    named: dict[str, Any] = {}
    shapes: list[dict[int, Any]] = [{} for _ in tensors]
    for (tensor, axis), size in choice.items():
        if attempt.sizes == "static":
            continue
        if attempt.sizes == "free":
            shapes[tensor][axis] = Dim.AUTO
            continue
        if size.name not in named:
            bounds = size.bounds
            named[size.name] = Dim(size.name, min=bounds.low if bounds else None, max=bounds.high if bounds else None)
        shapes[tensor][axis] = named[size.name]
    return tuple(shape or None for shape in shapes)


def _doubled(tensor: torch.Tensor, index: int, choice: Choice) -> torch.Tensor:
    repeats = [2 if (index, axis) in choice and size == 1 else 1 for axis, size in enumerate(tensor.shape)]
    return tensor.repeat(repeats) if 2 in repeats else tensor


def _may_help(attempt: Attempt, error: Exception) -> bool:
    """Whether another way is worth trying after this error. Code that looks at the values of tensors stops every way;
    other dynamic sizes help only where these were at fault."""
    if "data-dependent" in str(error):
        return False
    about_sizes = any(word in str(error).lower() for word in ("constraint", "dynamic", "specializ", "guard", "symbolic"))
    return attempt.sizes == "static" or about_sizes


def _about_values(error: Exception) -> bool:
    """Whether the error is about a value read from a tensor (torch names these u0, u1, ...). Oblivious tracing also takes
    sizes (s0, s1, ...) for values, and stops there where other ways do not."""
    return "data-dependent" in str(error) and re.search(r"\bu\d+\b", str(error)) is not None


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


def _summary(failures: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(failures)) or "no way was tried"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch logs and prints the whole graph of a failed attempt; the reason is in the exception, which is kept."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
