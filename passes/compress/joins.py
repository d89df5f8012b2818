"""Moving quantization in front of cat and split, so that bytes are moved instead of floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.passes.compress.pooling import error_for_others
from mcomp.passes.compress.samples import Key, Sample

_GIVEN = frozenset({"const", "full"})


def join_bytes(graph: Graph, context: Context, samples: Mapping[Key, Sample], limit: float) -> int:
    """Quantize what is joined or split instead of the results; returns at how many places.

        %c = cat %a, %b {axis = 1}                   %a0 = quantize %a {scale = s, zero = z}
        %q = quantize %c {scale = s, zero = z}       %a1 = decode %a0
                                                     (and so for %b)
                                                     %c = cat %a1, %b1 {axis = 1}
                                                     %q = quantize %c {scale = s, zero = z}

    All operands of a cat get the one scale of its result; results of a split have one scale where all of them are quantized
    alike. %q is the same. Other readers of %c get rounded values: where there are some, rounding may change %c by at most
    `limit` (relative L2 error, root mean square over images or tokens of the sample). What computes %a and %b then writes
    bytes, and a fourth of the memory is moved.
    """
    if context.target.partition(":")[0] == "cuda":  # whose kernels move floats
        return 0
    done = 0
    for node in reversed(list(graph.nodes)):
        coder = _coder(node)
        if coder is None or context.excluded("quantize", node):
            continue
        error = max(error_for_others(coder, value, samples) for value in node.results if value.uses)
        if not error <= limit:
            context.missed("quantize", node, f"rounding what it gives would change it for others by {error:.1%}, more than "
                           f"{limit:.1%}", "raise residual")
            continue
        if not context.allow_rewrite("quantize.join"):
            break
        _rewrite(graph, node, coder)
        if error:
            detail = f"others read it as {coder.attrs['dtype']}"
            context.record(graph, LedgerEntry("quantize", node.layer, node.name, error=error, detail=detail))
            context.remark("applied", "quantize", node, detail)
        done += 1
    return done


def _coder(node: Node) -> Node | None:
    """The quantize that reads a cat or a split of floats, like all others that do; None where they differ, or where there is
    nothing to gain."""
    if node.op.name not in ("cat", "split"):
        return None
    given = [v for v in node.operands if v is not None]
    if any(v.tensor.encoding != DENSE or v.producer is None or v.producer.op.name in _GIVEN for v in given):
        return None
    coders = [_coder_of(value) for value in node.results if value.uses]
    first = coders[0] if coders else None
    if first is None or any(c is None or dict(c.attrs) != dict(first.attrs) for c in coders):
        return None
    return None if all(_is_coded(v, first) for v in given) else first


def _coder_of(value: Value) -> Node | None:
    """The quantize with a known scale of 8 bits that reads a value, where all that do are alike."""
    found = [u for u in value.users if u.op.name == "quantize"]
    if not found or any(dict(u.attrs) != dict(found[0].attrs) for u in found):
        return None
    encoding = found[0].type.encoding
    fits = isinstance(encoding, Affine) and encoding.dtype.bits == 8 and encoding.scale is not None
    return found[0] if fits else None


def _is_coded(value: Value, coder: Node) -> bool:
    """Whether a value is decoded from what a quantize would give."""
    maker = value.producer
    return maker is not None and maker.op.name == "decode" and maker.operand(0).tensor.encoding == coder.type.encoding


def _rewrite(graph: Graph, node: Node, coder: Node) -> None:
    loc = fused("quantize", coder.loc, node.loc)
    rounded: dict[Value, Value] = {}
    with graph.edit("quantize", loc=loc) as editor:
        for x in _moved(node.operands, coder):
            coded = editor.add("quantize", [x], coder.attrs, loc=loc, before=node, name=f"{x.name}_q").result
            rounded[x] = editor.add("decode", [coded], loc=loc, before=node, name=f"{x.name}_d").result
        editor.set_operands(node, tuple(v if v is None else rounded.get(v, v) for v in node.operands))


def _moved(operands: Sequence[Value | None], coder: Node) -> list[Value]:
    return list(dict.fromkeys(v for v in operands if v is not None and not _is_coded(v, coder)))
