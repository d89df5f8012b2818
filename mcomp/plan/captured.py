"""What a workshop works on: captured programs, their calibration data, and what they give on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mcomp.ir.graph import Graph
from mcomp.plan.trail import Trail
from mcomp.runtime.calibration import Calibration

JUDGED = 128
"""Calibration batches that the error of outputs is measured on, at most."""
KEPT_BYTES = 1 << 30
"""Outputs of the original are kept for as many batches as fit into this; those of the rest are computed again for each
version."""
_GLANCED = 32
"""Calibration batches that the passes of a trial see, at most: what is fitted to these errs about as if fitted to all."""


@dataclass
class Work:
    """One captured program, its calibration data, and its cleaned-up graph once there is one."""

    path: str
    program: Any
    calibration: Calibration
    cleaned: Graph | None = None
    outputs: list[list[Any]] = field(default_factory=list)
    """Of the graph as captured, on as many of the first batches as are kept."""
    room: int = KEPT_BYTES
    """Bytes of outputs that may be kept yet."""
    trail: Trail = field(default_factory=Trail)
    glances: Trail = field(default_factory=Trail)
    """Of trials, whose passes see less."""
    few: Calibration = field(init=False)
    """The calibration data of trials."""

    def __post_init__(self) -> None:
        given = self.calibration
        self.few = given if len(given) <= _GLANCED else Calibration(given.batches[:_GLANCED], given.given)

    @property
    def program_is_plain(self) -> bool:
        """Whether the program keeps no state and writes to none of its arguments."""
        graph = self.program.graph
        return (
            not self.program.rebinds and all(s.kind == "arg" for s in graph.input_specs)
            and all(s.kind == "result" for s in graph.output_specs)
        )

    def expected(self, limit: int = JUDGED) -> Iterator[tuple[list[Any], list[Any]]]:
        """The first `limit` batches of the calibration data, each with the outputs of the graph as captured."""
        for index, batch in enumerate(self.calibration.batches[:limit]):
            if index < len(self.outputs):
                yield batch, self.outputs[index]
                continue
            found = self.calibration.outputs_of(self.program.graph, batch)
            size = sum(getattr(y, "nbytes", 0) for y in found)
            if index == len(self.outputs) and size <= self.room:
                self.outputs.append(found)
                self.room -= size
            yield batch, found
