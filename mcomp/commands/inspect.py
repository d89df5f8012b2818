"""`mcomp inspect`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from mcomp.commands.common import emit_json, open_graph
from mcomp.errors import ArtifactError


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("file", help="a .mcomp or .mir file")
    parser.add_argument("--weights", help="safetensors file with the weights of a .mir file")
    parser.add_argument("--ir", action="store_true", help="print the graph")
    parser.add_argument("--report", action="store_true", help="print the report kept in the file")
    parser.add_argument("--source", action="store_true", help="print the generated source kept in the file")
    parser.add_argument("--json", action="store_true", help="print facts, or with --report the report, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Show a file. Nothing of it is executed."""
    from mcomp.report.render import quantity
    from mcomp.runtime.artifact import ArtifactReader, used_weights

    graph = open_graph(arguments.file, arguments.weights, runs=False)
    reader = ArtifactReader(arguments.file) if arguments.file.endswith(".mcomp") else None
    if arguments.ir:
        print(graph)
        return 0
    if reader is None and (arguments.source or arguments.report):
        raise ArtifactError(f"{arguments.file} holds a graph and nothing else", code="MC0708",
                            help="--source and --report need a .mcomp file")
    if arguments.source and reader is not None:
        print(reader.blob("source").decode() or "// no source was generated")
        return 0
    if arguments.report and reader is not None:
        if arguments.json:
            emit_json(reader.report().to_json())
        else:
            reader.report().print()
        return 0
    sizes = {d: graph.store.get(d).nbytes for d in used_weights(graph)}
    facts: dict[str, Any] = {
        "name": graph.name,
        "inputs": {v.name: str(v.type) for v in graph.inputs},
        "outputs": [str(v.type) for v in graph.outputs],
        "symbols": {s: str(b) for s, b in graph.symbols.items()},
        "nodes": len(graph),
        "operators": dict(Counter(n.op.name for n in graph.walk() if n.op.name != "const").most_common()),
        "weights": len(sizes),
        "weight_bytes": sum(sizes.values()),
        "code": reader.code_names() if reader else [],
    }
    if arguments.json:
        emit_json(facts)
        return 0
    print(f"graph @{graph.name}, {facts['nodes']} nodes, {len(sizes)} weights of {quantity(sum(sizes.values()), 'B')}")
    for kind in ("inputs", "symbols"):
        for name, text in facts[kind].items():
            print(f"  {kind[:-1]} {name}: {text}")
    print("  outputs: " + ", ".join(map(str, facts["outputs"])))
    print("  operators: " + ", ".join(f"{n} x{c}" for n, c in facts["operators"].items()))
    if reader:
        print("  compiled code: " + (", ".join(reader.code_names()) or "none"))
    return 0
