"""`treat`: a treatment for each of some layers, as a planner chose them."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.errors import PassError
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.passes import NONE, Pass, PassEffect, PassResult, register_pass
from mcomp.passes.compress.options import check_limit
from mcomp.passes.compress.quantize import Quantize
from mcomp.passes.compress.rounding import Rounding
from mcomp.passes.compress.treatment import Treatment, apply


@register_pass
@dataclass(frozen=True)
class Treat(Pass):
    """Give single layers, named by their results, what was chosen for them.

    before:
        %w = const @fc.weight#9f3a : f32[512, 512]
        %h = linear %x, %w, %b : f32[B, 512]
    after treat{choices=["h=channel 64, int8 static"]}:
        %q = quantize %x {dtype = !u8, scale = 0.02, zero = 3} : f32[B, 512] affine<u8, scale=0.02, zero=3>
        %v = const @fc.weight.in#77b0 : f32[64, 512] affine<i8, axis=0>
        %r = linear %q, %v : f32[B, 64]
        ...

    choices: texts `name=treatment`. A treatment is one or two of: factors (`channel 64`, `spatial 16`, `tucker 8x12`, see
        `lowrank`; `table 96` for an embedding), blocks (`blocks 32x4 without 0.5`: half of them go), and integers (`int8
        static`, `int8 dynamic`, `int8`, `int4`, `int4 static`); or `float`. Recurrent layers have `int8 dynamic` and `int8`,
        attention and products of activations `int8 static`, of their operands.
    rounding: as for `quantize`. refit: fit the layers behind factors and blocks to what they gave, before integers.
    limit: at most so many calibration batches are used.

    What was chosen is done whatever its error, which the ledger tells.
    """

    name = "treat"
    effect = PassEffect.APPROXIMATE

    choices: tuple[str, ...] = ()
    rounding: Rounding = "auto"
    refit: bool = True
    limit: int = 128

    def check(self, graph: Graph, context: Context) -> None:
        self.treatments()
        check_limit("treat", self.limit)
        Quantize(rounding=self.rounding, limit=self.limit).check(graph, context)
        if context.calibration is None:
            raise PassError("treat: layers are fitted to calibration data, and there is none", code="MC0205",
                            help="pass calibration=[...] or example inputs")

    def treatments(self) -> dict[str, Treatment]:
        """The treatments by name of the node. Raises PassError for a text that is none."""
        found: dict[str, Treatment] = {}
        for choice in self.choices:
            name, _, text = choice.partition("=")
            try:
                found[name.strip()] = Treatment.parse(text)
            except ValueError as e:
                raise PassError(f"treat: {choice!r}: {e}", code="MC0204",
                                help='write "name=int8 static", "name=channel 64, int8 static" ...') from e
        return found

    def run(self, graph: Graph, context: Context) -> PassResult:
        treatments = self.treatments()
        known = {n.name for n in graph.nodes}
        for name in treatments:
            if name not in known:
                context.missed("treat", name, "the graph has no layer of this name", "choose among `print(fast.ir)`")
        entries = len(graph.ledger)
        options = Quantize(rounding=self.rounding, limit=self.limit)
        apply(graph, context, treatments, options, self.limit, refit=self.refit)
        return PassResult(len(graph.ledger) > entries, NONE, {"treated": len(graph.ledger) - entries})
