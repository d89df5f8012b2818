"""Running compiled code from an artifact without lowering its graph again. Light to import.

A recipe is JSON that says of a program of one region what running its code takes: the regions' entry points, what each
slot holds, where packed constants lie, the outputs' types. It comes from the same file as the code and is trusted with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mcomp.backend import Array, Bound, CompileOptions, Executable, Interface, KernelInfo, Stored
from mcomp.backends.cpu.access import Buffer, ConstSource
from mcomp.backends.cpu.constants import Constants, decoded_array
from mcomp.backends.cpu.isa import usable
from mcomp.backends.cpu.library import ABI, Library
from mcomp.backends.cpu.plan import Region
from mcomp.backends.cpu.running import IndexFault, Native, NativeBound, Solo, index_fault
from mcomp.ir.graph import Graph
from mcomp.ir.terms import parse_dim, parse_type
from mcomp.ir.types import TensorType
from mcomp.threads import available_threads

FORMAT = 1
"""Version of recipes; others are not used, and the graph is lowered instead."""


Label = tuple[str, str, str]
"""A step for people: its operator, where it comes from, its line of IR."""


def recipe_text(
    regions: Sequence[Region], symbols: Sequence[str], outputs: Sequence[TensorType], isa: str, key: str,
    labels: Sequence[Label],
) -> str:
    """The recipe of a program that is one region after the packing one."""
    packing, main = regions
    places = {b: i for i, b in enumerate(packing.buffers)}
    return json.dumps({
        "format": FORMAT, "abi": ABI, "isa": isa, "key": key, "symbols": list(symbols),
        "outputs": [str(t) for t in outputs],
        "packing": _region_to_json(packing, {}), "main": _region_to_json(main, places), "labels": list(labels),
    })


def _region_to_json(region: Region, packed: Mapping[Buffer, int]) -> dict[str, Any]:
    return {
        "prefix": region.prefix, "numbers": region.number_count, "steps": region.step_count, "phases": region.phases,
        "work": str(region.work), "arena": list(region.arena), "slots": [_slot(b, packed) for b in region.buffers],
    }


def _slot(buffer: Buffer, packed: Mapping[Buffer, int]) -> list[Any]:
    if buffer.source is not None:
        return ["const", buffer.source.digest, buffer.source.part, buffer.source.decoded]
    if buffer in packed:
        return ["made", packed[buffer]]
    return [buffer.kind, buffer.index]


def _region(data: Mapping[str, Any], made: Sequence[Buffer]) -> Region:
    buffers = []
    for kind, *rest in data["slots"]:
        if kind == "made":
            buffers.append(made[rest[0]])
        elif kind == "const":
            buffers.append(Buffer("const", source=ConstSource(*rest)))
        else:
            buffers.append(Buffer(kind, index=rest[0]))
    return Region(
        data["prefix"], data["numbers"], data["steps"], tuple(buffers), tuple(data["arena"]), data["phases"],
        parse_dim(data["work"]),
    )


def revive(stored: Stored, options: CompileOptions) -> Executable | None:
    """An executable from trusted code in a file; None when the file has none for this machine and this version.

    Raises KeyError, TypeError, ValueError, IndexError or McompError when the recipe does not hold together, and BackendError
    for an instruction set that this machine lacks, and for code that does not load.
    """
    data = json.loads(stored.recipe)
    if data["format"] != FORMAT or data["abi"] != ABI or usable([data["isa"]], options.isa) is None:
        return None
    content = stored.code(data["isa"])
    if not content:
        return None
    library = Library.from_bytes(content)
    if library.key() != data["key"]:
        return None
    return PreparedExecutable(data, stored, library, options.threads)


class PreparedExecutable(Executable):
    """Trusted code with its recipe. What only the graph can tell (kernels, profiles, exports) is asked of `stored.whole`,
    which lowers and, where the versions of mcomp differ, compiles it."""

    def __init__(self, data: Mapping[str, Any], stored: Stored, library: Library, threads: int | None) -> None:
        self.threads = threads if threads is not None else available_threads()
        self.symbols: tuple[str, ...] = tuple(data["symbols"])
        self._stored, self._library, self.isa = stored, library, str(data["isa"])
        self._labels: list[Label] = data["labels"]
        packing = _region(data["packing"], ())
        main = _region(data["main"], packing.buffers)
        self._constants = Constants(
            self._array, main.buffers, packing, library.entry(packing.prefix), self.threads
        )
        outputs = [parse_type(t) for t in data["outputs"]]
        if not Solo.fits(main, outputs):
            raise ValueError("its recipe does not describe a program of one region")
        self._solo = Solo(
            Native(main, library.entry(main.prefix), self), [t for t in outputs if isinstance(t, TensorType)]
        )

    def _array(self, source: ConstSource) -> np.ndarray:
        if source.decoded:
            return decoded_array(self._stored.weight(source.digest))
        return self._stored.array(source.digest, source.part)

    def addresses(self) -> Mapping[Buffer, int]:
        """Where constants lie."""
        return self._constants.addresses

    @property
    def packed_bytes(self) -> int:
        """Bytes of packed constants."""
        return self._constants.packed_bytes

    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int], *, numpy: bool = False) -> list[Array]:
        return self._solo.run(inputs, symbols, numpy=numpy)

    def bind(self, inputs: Sequence[Array], symbols: Mapping[str, int]) -> Bound:
        return NativeBound(self._solo, inputs, symbols)

    def recipe(self) -> str:
        return self._stored.recipe

    def binaries(self) -> dict[str, bytes]:
        return {self.isa: self._library.content}

    def source(self) -> str:
        return self._stored.source()

    @cached_property
    def _whole(self) -> Executable:
        return self._stored.whole()

    @property
    def graph(self) -> Graph:  # type: ignore[override]
        """The graph of kernels."""
        return self._whole.graph

    def kernels(self, symbols: Mapping[str, int]) -> list[KernelInfo]:
        return self._whole.kernels(symbols)

    def profile(self, inputs: Sequence[Array], symbols: Mapping[str, int], repeats: int = 10) -> list[float]:
        return self._whole.profile(inputs, symbols, repeats)

    def arena_bytes(self, symbols: Mapping[str, int]) -> int:
        return self._whole.arena_bytes(symbols)

    def export_c(self, folder: Path, interface: Interface) -> list[Path]:
        return self._whole.export_c(folder, interface)

    def fault(self, region: Region, step: int) -> IndexFault:
        """The error for bad data met at a step (counted from 1)."""
        return index_fault(*self._labels[step - 1])
