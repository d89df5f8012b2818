"""A compiled model as a C library: names and checks; the backend writes the code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mcomp.backend import Interface
from mcomp.capture import structure
from mcomp.errors import ArtifactError
from mcomp.ir.types import TensorType
from mcomp.runtime.program import CompiledProgram

_WORDS = """
alignas alignof and asm auto bool break call case catch char class const constexpr continue decltype default delete do double
else enum explicit extern false float for friend goto if inline int long main mutable namespace new not nullptr operator or
private protected public register restrict return shape short signed sizeof static struct switch template this threads throw
true try typedef typename union unsigned using virtual void volatile weights while xor
"""
_RESERVED = frozenset(_WORDS.split())
"""Keywords of C and C++, and names that the library uses itself."""


def export_c(program: CompiledProgram, folder: str | os.PathLike[str], name: str = "model") -> Path:
    """Write a C library to `folder`: `<name>.h`, `<name>.cpp` with the kernel headers it needs, `<name>.weights`,
    `example.c`, `Makefile` and `README.txt`. `name` must be an identifier of C.

    Sizes that are symbolic are passed when a call is prepared. Raises ArtifactError for programs that keep state, write to
    their arguments or return numbers, when the folder cannot be written, and when a file of these names is there that mcomp
    did not write; BackendError for those whose target generates
    no code, or that run partly in torch.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name) or name in _RESERVED:
        raise ArtifactError(f"{name!r} cannot name a C library", code="MC0709", help="use letters, digits and underscores")
    _check(program)
    leaves = structure.leaf_paths(program.arguments)
    results = structure.leaf_paths(program.results)
    inputs = identifiers(_names(leaves), "input")
    outputs = identifiers(_names(results), "output", taken=inputs)
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        program.executable.export_c(place, Interface(name, inputs, outputs))
    except OSError as e:
        raise ArtifactError(f"{place} could not be written: {e}", code="MC0702",
                            help="free space or choose another folder") from e
    return place


def _names(paths: Mapping[int, structure.Path]) -> list[str]:
    return [structure.path_text(path) if path else "" for _, path in sorted(paths.items())]


def _check(program: CompiledProgram) -> None:
    graph = program.graph
    states = [s.target for s in graph.input_specs if s.kind == "state"]
    if states:
        raise ArtifactError(
            f"a model that keeps state cannot be exported to C: it updates {', '.join(states)}", code="MC0709",
            help="pass the state as an argument and return it as a result",
        )
    written = [s.target for s in graph.output_specs if s.kind != "result"]
    if written or program.rebinds:
        names = ", ".join(written) or structure.path_text(program.rebinds[0].path)
        raise ArtifactError(f"a model that writes to its arguments cannot be exported to C: it changes {names}",
                            code="MC0709", help="return what changes as a result")
    for value in (*graph.inputs, *graph.outputs):
        if not isinstance(value.type, TensorType):
            raise ArtifactError(f"%{value.name} is a number, not a tensor: the model cannot be exported to C",
                                code="MC0709", ir=repr(value), help="take and return tensors")


def identifiers(names: Iterable[str], default: str, taken: Iterable[str] = ()) -> tuple[str, ...]:
    """Names as distinct identifiers of C and C++; `default` for those of which nothing is left."""
    used = set(taken) | _RESERVED
    found = []
    for name in names:
        base = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", name)).strip("_")[:40]
        if not base or base[0].isdigit():
            base = f"{default}{base}"
        chosen, number = base, 1
        while chosen in used:
            number += 1
            chosen = f"{base}_{number}"
        used.add(chosen)
        found.append(chosen)
    return tuple(found)
