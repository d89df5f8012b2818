"""Capture every model of the zoo and compare it with eager torch: the table that shows how general mcomp is.

    python -m benchmarks.zoo_check --models "text-encoder,llama*" --target cpu --results benchmarks/results/zoo

`--target capture` interprets the captured graph. A backend's name compiles the lossless version, as `mcomp.optimize`
does, and measures no times. Models are checked in worker processes; one that takes longer than `--limit` seconds is
stopped and stands in the table as failed. `--results` names a .json and a .md file, written after every model.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, zoo
from benchmarks.zoo_table import BATCHES, Row, Table


def check(entry: zoo.Entry, target: str = "capture", batches: Sequence[int] = BATCHES) -> Row:
    """Capture (and compile) at the first batch size, compare at all of them."""
    start = time.perf_counter()
    row = Row(entry.name, entry.family)
    try:
        model = entry.build()
        args, kwargs = entry.inputs(batches[0])
        row, other = (_captured if target == "capture" else _compiled)(row, model, args, kwargs, target)
        row = dataclasses.replace(row, seconds=time.perf_counter() - start)
        for batch in batches if other is not None else ():
            row = dataclasses.replace(row, errors=(*row.errors, compare(model, other, *entry.inputs(batch))))
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else ""
        row = dataclasses.replace(row, failure=f"{type(error).__name__}: {first}"[:400])
    if not row.good and entry.name in zoo.REMARKS:
        row = dataclasses.replace(row, notes=(zoo.REMARKS[entry.name], *row.notes))
    return dataclasses.replace(row, total_seconds=time.perf_counter() - start)


def _captured(row: Row, model: Any, args: Any, kwargs: Any, target: str) -> tuple[Row, Any]:
    """The row without errors, and the captured program to compare, None for a model captured in parts."""
    from mcomp.capture import capture
    from mcomp.ir.verifier import verify
    from mcomp.ops.evaluate import bind_symbols

    captured = capture(model, args, kwargs)
    if captured.program is None:
        reasons = tuple(f"{one.path or 'the model'}: {one.reason}" for one in captured.eager)
        parts = dataclasses.replace(row, eager_modules=len(captured.eager), round_trip=True, notes=reasons)
        return dataclasses.replace(parts, failure="captured in parts"), None
    program = captured.program
    graph = program.graph
    verify(graph)
    nodes, opaque, share, work = _shares(graph, bind_symbols(graph, program.shapes))
    notes = tuple(reason for _, reason, _ in captured.notes)
    row = dataclasses.replace(
        row, nodes=nodes, opaque_nodes=opaque, native_nodes=share, native_flops=work, round_trip=_survives(graph),
        notes=notes,
    )
    return row, Interpreted(program)


def _survives(graph: Any) -> bool:
    """Whether printing and parsing gives the same text."""
    from mcomp.ir.parser import parse_graph

    text = str(graph)
    return str(parse_graph(text, graph.store)) == text


def _shares(graph: Any, symbols: dict[str, int]) -> tuple[int, int, float, float]:
    """Nodes, opaque nodes, native share of nodes and of FLOPs; constants do not count."""
    from mcomp.ir.binding import assume_symbols
    from mcomp.ops.opaque import is_opaque
    from mcomp.ops.workload import workload

    known = assume_symbols(graph, symbols)
    nodes = [node for node in graph.walk() if node.op.name != "const"]
    opaque = [node for node in nodes if is_opaque(node)]
    work = {node: float(workload(node, known).flops) for node in nodes}
    total = sum(work.values())
    native = 1 - sum(work[node] for node in opaque) / total if total else 1.0
    return len(nodes), len(opaque), 1 - len(opaque) / max(1, len(nodes)), native


class Interpreted:
    """A captured program, run by the reference meaning of its operators."""

    def __init__(self, program: Any) -> None:
        from mcomp.ops.encoded import weight_tensor

        self.program = program
        specs = [spec for spec in program.graph.input_specs if spec.kind == "state"]
        self.state = {spec.target: weight_tensor(program.graph.store.get(spec.initial)).clone() for spec in specs}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mcomp.capture import structure
        from mcomp.ops.evaluate import run_graph

        program = self.program
        bound = program.signature.bind(args, kwargs)
        leaves: list[Any] = []
        structure.collect(program.arguments, bound, leaves)
        outputs = run_graph(program.graph, [*leaves, *self.state.values()])
        results = []
        names = [value.name for value in program.graph.inputs]
        for spec, output in zip(program.graph.output_specs, outputs, strict=True):
            if spec.kind == "result":
                results.append(output)
            elif spec.kind == "mutated":
                leaves[names.index(spec.target)].copy_(output)
            else:
                self.state[spec.target] = output
        structure.apply_rebinds(program.rebinds, bound, results)
        return structure.build(program.results, results, bound)


def _compiled(row: Row, model: Any, args: Any, kwargs: Any, target: str) -> tuple[Row, Any]:
    """The row without errors, and the compiled lossless version."""
    from mcomp.capture import capture
    from mcomp.ops.opaque import is_opaque
    from mcomp.plan.build import works_of
    from mcomp.plan.progress import Progress
    from mcomp.plan.settings import Settings
    from mcomp.plan.work import Workshop

    captured = capture(model, args, kwargs)
    works = works_of(captured, [], args, kwargs)
    workshop = Workshop(model, captured, works, (args, kwargs), Settings(target=target, progress=False), Progress(False))
    version = workshop.lossless()
    kernels = []
    for work in works:
        program = version.built.programs()[work.path]
        kernels += program.executable.kernels(program.symbols(workshop.example_leaves(work)))
    graphs = version.graphs.values()
    count = sum(max(1, len(kernel.nodes)) for kernel in kernels)
    native = sum(max(1, len(kernel.nodes)) for kernel in kernels if kernel.native)
    flops = sum(kernel.flops for kernel in kernels)
    native_flops = sum(kernel.flops for kernel in kernels if kernel.native)
    in_torch = sorted({op for kernel in kernels if not kernel.native for op in kernel.ops})
    notes = [f"{one.path or 'the model'} stays eager: {one.reason}" for one in captured.eager]
    notes += [reason for _, reason, _ in captured.notes]
    notes += [f"run by torch: {', '.join(in_torch)}"] if in_torch else []
    row = dataclasses.replace(
        row, nodes=count, eager_modules=len(captured.eager),
        opaque_nodes=sum(is_opaque(node) for graph in graphs for node in graph.walk()),
        native_nodes=native / count if count else 1.0, native_flops=native_flops / flops if flops else 1.0,
        round_trip=all(_survives(graph) for graph in (*graphs, *(work.program.graph for work in works))),
        notes=tuple(notes),
    )
    return row, workshop.compiled(version)


def compare(model: Any, other: Any, args: Any, kwargs: Any) -> float:
    """Relative L2 error of `other` to the model, over results and changed arguments; the worst tensor counts.
    Both start with the same seed.

    Raises AssertionError where structures, shapes, dtypes or the places of NaN and infinity differ.
    """
    import torch

    from mcomp.capture import structure

    mine, theirs = copy.deepcopy((args, kwargs)), copy.deepcopy((args, kwargs))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        expected = model(*mine[0], **mine[1])
        torch.manual_seed(0)
        found = other(*theirs[0], **theirs[1])
    assert type(expected) is type(found), f"{type(found).__name__} instead of {type(expected).__name__}"
    wanted: list[Any] = []
    given: list[Any] = []
    structure.describe((expected, mine), wanted)
    structure.describe((found, theirs), given)
    assert len(wanted) == len(given), f"{len(given)} tensors instead of {len(wanted)}"
    return max((_error(a, b) for a, b in zip(wanted, given, strict=True)), default=0.0)


def _error(a: Any, b: Any) -> float:
    import torch

    assert a.shape == b.shape, f"shape {list(b.shape)} instead of {list(a.shape)}"
    assert a.dtype == b.dtype, f"{b.dtype} instead of {a.dtype}"
    kind = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.detach().to(kind), b.detach().to(kind)
    finite = torch.isfinite(a)
    assert torch.equal(finite, torch.isfinite(b)), "NaN or infinity at other places"
    return float((a - b)[finite].norm() / (a[finite].norm() + 1e-12))


def main() -> int:
    """Check the chosen models, print the table; 1 when one fails outright."""
    from benchmarks.zoo_pool import check_all

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="comma-separated name or family patterns")
    parser.add_argument("--target", default="capture", help="capture, or the name of a backend")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="batch sizes, that of the capture first")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that one model may take")
    parser.add_argument("--jobs", type=int, default=1, help="models checked at a time")
    parser.add_argument("--results", type=Path, help="write the table to this .json and .md")
    parser.add_argument("--resume", action="store_true", help="check only models that have no good row in --results yet")
    options = parser.parse_args()
    batches = tuple(int(one) for one in options.batches.split(","))
    table = Table(machine.command_of("zoo_check", sys.argv[1:]), options.target)
    if options.resume and options.results is not None:
        table = table.resumed(options.results)
    names = [entry.name for entry in zoo.entries(options.models)]
    todo = [name for name in names if name not in table.rows or not table.rows[name].good]
    for done, row in enumerate(check_all(todo, options.target, options.limit, options.jobs, batches), 1):
        table.rows[row.name] = row
        table.rows = {one.name: table.rows[one.name] for one in zoo.entries() if one.name in table.rows}
        print(f"{done:>3}/{len(todo)} {row.line()}", flush=True)
        if options.results is not None:
            table.write(options.results)
    chosen = [table.rows[name] for name in names]
    print(f"\n{table.text(chosen)}\n{sum(row.good for row in chosen)} of {len(chosen)} models meet every requirement")
    return 0 if all(not row.failure for row in chosen) else 1


if __name__ == "__main__":
    raise SystemExit(main())
