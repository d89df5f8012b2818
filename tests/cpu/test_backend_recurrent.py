"""LSTM, GRU and RNN with int8 weights: native kernels, against the operators' own meaning."""

from __future__ import annotations

import pytest
import torch

from tests.cpu.backend_harness import check, compiled, each_isa, kernel_names, needs_compiler

pytestmark = needs_compiler

WEIGHTS = "affine<i8, axis=0>"


def graph(op: str, *, dynamic: bool, both: bool = False, batch_first: bool = False, bias: bool = True,
          size: int | None = None) -> str:
    """One layer over x[T, B, 13] with 21 units; `size`: of a projection."""
    gates, directions, hidden = {"lstm": 4, "gru": 3, "rnn": 1}[op], 1 + both, 21
    kept = size or hidden
    matrices = [(gates * hidden, 13), (gates * hidden, kept)]
    lines, names = [], []
    for direction in range(directions):
        for i, (n, k) in enumerate(matrices):
            lines.append(f"%w{direction}{i} = const @w{direction}{i}#int8 : f32[{n}, {k}] {WEIGHTS}")
            names.append(f"%w{direction}{i}")
        for i in range(2 * bias):
            lines.append(f"%b{direction}{i} = const @b#seed={i} : f32[{gates * hidden}]")
            names.append(f"%b{direction}{i}")
        if size:
            lines.append(f"%p{direction} = const @p{direction}#int8 : f32[{size}, {hidden}] {WEIGHTS}")
            names.append(f"%p{direction}")
    sizes = "B, T" if batch_first else "T, B"
    states = [("%h", kept), ("%c", hidden)][: 2 if op == "lstm" else 1]
    types = [f"f32[{sizes}, {directions * kept}]", *(f"f32[{directions}, B, {k}]" for _, k in states)]
    given = ", ".join([f"%x: f32[{sizes}, 13]", *(f"{n}: {t}" for (n, _), t in zip(states, types[1:]))])
    attrs = f"layers=1, bidirectional={both}, batch_first={batch_first}, bias={bias}, dynamic={dynamic}".lower()
    attrs += ", projection=true" if size else ""
    results = ", ".join(f"%r{i}" for i in range(len(types)))
    body = "\n  ".join([*lines, f"{results} = {op} %x, {', '.join(n for n, _ in states)}, {', '.join(names)} "
                        f"{{{attrs}}} : {', '.join(types)}"])
    return f"graph @g [B in 1.., T in 1..] ({given}) -> ({', '.join(types)}) {{\n  {body}\n  return {results}\n}}"


GRAPHS = {
    "lstm": graph("lstm", dynamic=True, both=True, batch_first=True),
    "projection": graph("lstm", dynamic=True, size=9),
    "gru": graph("gru", dynamic=True, bias=False),
    "rnn": graph("rnn", dynamic=True),
    "lstm, weights only": graph("lstm", dynamic=False, size=9),
    "gru, weights only": graph("gru", dynamic=False, both=True),
}


@each_isa
@pytest.mark.parametrize("name", GRAPHS)
def test_int8_weights_run_natively(name: str, isa: str | None) -> None:
    text = GRAPHS[name]
    executable = compiled(text, isa=isa, among=tuple(GRAPHS.values()))
    torch.manual_seed(0)
    for steps, batch in ((1, 1), (6, 5)):
        lead = (batch, steps) if "batch_first=true" in text else (steps, batch)
        inputs = [torch.randn(*lead, 13)]
        for value in executable.graph.inputs[1:]:
            count, _, size = value.tensor.shape
            inputs.append(torch.randn(count, batch, size) / 2)
        # A state next to the middle between two integers may round the other way.
        check(executable, inputs, tolerance=1e-5 if "weights only" in name else 5e-3)
    assert all(k.native for k in executable.kernels({"B": 2, "T": 3}))
    names = kernel_names(executable, B=2, T=3)
    assert ("linear_i8" if "weights only" not in name else "linear_weight_only") in names
