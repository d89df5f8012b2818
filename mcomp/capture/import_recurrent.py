"""Importers of recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.capture.importing import Call, Decline, imports
from mcomp.ir.graph import Value


@imports("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
def recurrent(call: Call) -> Sequence[Value]:
    if call["dropout"] and call["train"]:
        raise Decline("it draws random numbers")
    name = call.name.split(".")[1]
    states = list(call["hx"]) if name == "lstm" else [call.value("hx")]
    weights = list(call["params"])
    layers, bias, both = call["num_layers"], bool(call["has_biases"]), bool(call["bidirectional"])
    attrs: dict[str, object] = {
        "layers": layers, "bidirectional": both, "batch_first": bool(call["batch_first"]), "bias": bias,
    }
    op = name
    if name.startswith("rnn"):
        op, attrs["nonlinearity"] = name.split("_")
    if name == "lstm":
        attrs["projection"] = len(weights) == layers * (1 + both) * (5 if bias else 3)
    return call.emit_many(op, [call.value("input"), *states, *weights], **attrs)
