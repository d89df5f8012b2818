"""`mcomp opt`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mcomp.commands.arrays import example_sizes, tensors_for
from mcomp.commands.common import INPUTS, made_up_sizes, open_graph, parse_sizes, tell_sizes, weights_of, writable
from mcomp.errors import ArtifactError


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("file", help="a .mir or .mcomp file, a reproducer's folder, or - for standard input")
    parser.add_argument("--pipeline", help='passes, such as "fold,cse,dce", or a .txt file that holds them (default: those '
                        "that prepare a graph for the target)")
    parser.add_argument("--emit", choices=["ir", "source", "kernels"], default="ir",
                        help="what to print: the graph, the source that the target's passes and lowering give, or what "
                        "compiling it ahead of time gives (for a machine that need not be there: --target cuda:sm_90)")
    parser.add_argument("--weights", help="safetensors file with the weights of a .mir file")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("-o", "--output", help="where to write the graph (default: standard output); its weights go beside "
                        "it, to out.weights.safetensors for out.mir")
    parser.add_argument("--input", action="append", default=[], metavar="NPY",
                        help=f"calibration and check inputs: {INPUTS}")
    parser.add_argument("--size", action="append", default=[], metavar="B=8")
    parser.add_argument("--no-verify", action="store_true", help="do not verify after each pass")
    parser.add_argument("--check", action="store_true", help="compare numbers after each pass, by its effect class")
    parser.add_argument("--timing", action="store_true", help="print the time of each pass")
    parser.add_argument("--statistics", action="store_true", help="print what passes counted")
    parser.add_argument("--remarks", action="store_true", help="print remarks")
    parser.add_argument("--journal", action="store_true", help="print every rewrite")
    parser.add_argument("--dump", metavar="DIR", help="write numbered IR files")
    parser.add_argument("--dump-when", choices=["before", "after", "change"], default="change")
    parser.add_argument("--reproducer", metavar="DIR", help="where to write a reproducer when a pass crashes")


def run(arguments: argparse.Namespace) -> int:
    """Run a pipeline over a graph and print the result; beside it, the sizes of made-up inputs."""
    from mcomp.backend import backend_named
    from mcomp.ir.printer import graph_text
    from mcomp.manager import Context, Instrument, PassManager
    from mcomp.manager import instruments as tools
    from mcomp.runtime.calibration import Calibration

    sizes = made_up_sizes(arguments) if arguments.emit == "ir" else parse_sizes(arguments.size)  # kernels are for sizes, too
    if arguments.output:
        _check_output(Path(arguments.output), arguments.emit)
    graph = open_graph(arguments.file, arguments.weights)
    backend = backend_named(arguments.target)
    pipeline = _pipeline(arguments, backend)
    inputs: list[Any] = tensors_for(graph, arguments.input, sizes)
    if not arguments.input:
        tell_sizes(example_sizes(graph, sizes), sys.stderr)
    context = Context(target=arguments.target, exclude=arguments.exclude,
                      calibration=Calibration([inputs], given=bool(arguments.input)))
    timing, statistics = tools.Timing(), tools.Statistics()
    watching: list[Instrument] = [timing, statistics]
    if not arguments.no_verify:
        watching.append(tools.Verify())
    if arguments.check:
        watching.append(tools.NumericCheck(context.calibration.inputs(graph, inputs) if context.calibration else inputs))
    if arguments.dump:
        watching.append(tools.Dump(arguments.dump, arguments.dump_when))
    reproducer = tools.Reproducer(arguments.reproducer) if arguments.reproducer else None
    if reproducer is not None:
        watching.append(reproducer)
    try:
        PassManager(pipeline, watching).run(graph, context)
    finally:
        if reproducer is not None and reproducer.written:
            print(f"a reproducer was written to {reproducer.folder}", file=sys.stderr)
    if arguments.emit != "ir":
        _put(_emitted(backend, graph, context, arguments), arguments.output)
    elif arguments.output:
        _write_graph(graph, Path(arguments.output))
    else:
        print(graph_text(graph))
    lines: list[Any] = []
    lines += [timing] if arguments.timing else []
    lines += [statistics] if arguments.statistics else []
    lines += context.remarks if arguments.remarks else []
    lines += graph.journal if arguments.journal else []
    for line in lines:
        print(line, file=sys.stderr)
    return 0


def _emitted(backend: Any, graph: Any, context: Any, arguments: argparse.Namespace) -> str:
    """The source of a graph, or a line for each of its compiled kernels."""
    from mcomp.backend import CompileOptions
    from mcomp.runtime.choose import lowered

    sizes = {s: max(1, b.low) for s, b in graph.symbols.items()} | parse_sizes(arguments.size)
    options = CompileOptions(isa=arguments.target.partition(":")[2] or None, hints=sizes)
    ready = lowered(backend, graph, context)
    if arguments.emit == "source":
        return str(backend.source(ready, options))
    lines = []
    for kernel in backend.compile_ahead(ready, options):
        facts = ", ".join(f"{value} {name}" for name, value in kernel.facts.items())
        faults = "".join(f"\n  fault: {fault}" for fault in kernel.faults)
        lines.append(f"{kernel.name}: {', '.join(kernel.ops)}: {facts}{faults}")
    return "\n".join(lines) + "\n"


def _pipeline(arguments: argparse.Namespace, backend: Any) -> str:
    given = arguments.pipeline
    if given is None:
        return str(backend.pipeline()) if arguments.emit == "ir" else ""
    if not given.endswith(".txt"):
        return str(given)
    try:
        return Path(given).read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{given} cannot be read: {e}", code="MC0704",
                            help="give passes, or a .txt file that holds them") from e


def _check_output(place: Path, emit: str) -> None:
    """Raise ArtifactError where the output cannot be written, or would take the place of weights that are not mcomp's."""
    from mcomp.manager.instruments.reproducer import holds_weights

    writable(str(place))
    weights = weights_of(place)
    if emit == "ir" and weights.exists() and not holds_weights(weights):
        raise ArtifactError(f"{weights} is there already, and mcomp did not write it", code="MC0702",
                            help="choose another place with --output")


def _put(text: str, output: str | None) -> None:
    if output:
        Path(output).write_text(text)
    else:
        print(text, end="")


def _write_graph(graph: Any, place: Path) -> None:
    """The graph as text, and its weights beside it."""
    from safetensors import SafetensorError

    from mcomp.files import replacing
    from mcomp.ir.printer import graph_text
    from mcomp.manager.instruments.reproducer import write_weights
    from mcomp.runtime.artifact import used_weights

    try:
        if used_weights(graph):
            with replacing(weights_of(place)) as temporary:
                write_weights(temporary, graph)
        place.write_text(graph_text(graph, digests=32) + "\n")
    except (OSError, SafetensorError) as e:
        raise ArtifactError(f"{place} could not be written: {e}", code="MC0702",
                            help="free space or choose another place") from e
