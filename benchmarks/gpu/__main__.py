"""The GPU benchmark: correctness of every kernel and of five networks, then times beside torch and torchao.

    python -m benchmarks.gpu                               # everything; needs a GPU
    python -m benchmarks.gpu --aot                         # compile the whole manifest ahead of time; needs no GPU
    TRITON_INTERPRET=1 python -m benchmarks.gpu --interpret --small     # prove the script without a GPU
"""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.gpu import report


def default_place(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The committed file for whole runs only."""
    part = options.only or options.small or options.no_kernels or any(
        getattr(options, name) != parser.get_default(name) for name in ("models", "batches")
    )
    if not part:
        return "benchmarks/results/gpu.json"
    os.makedirs("build", exist_ok=True)
    return "build/gpu.json"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 where something is wrong or was skipped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Checks and times target cuda.")
    parser.add_argument("--aot", action="store_true",
                        help="compile every entry of the manifest for sm_80 and sm_90, and stop")
    parser.add_argument("--configurations", type=int, default=1, help="with --aot: so many configurations of each kernel")
    parser.add_argument("--only", default="", help="entries, models and products whose name holds this text")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that compile")
    parser.add_argument("--interpret", action="store_true", help="run in Triton's interpreter; no times are taken")
    parser.add_argument("--small", action="store_true", help="small models and sizes")
    parser.add_argument("--models", default="minilm,bert,resnet,vit,llama")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--no-kernels", action="store_true", help="networks only")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-times", action="store_true", help="correctness only")
    parser.add_argument("--json", help="where the results go, beside a table in Markdown; default "
                        "benchmarks/results/gpu.json, of a part of the benchmark build/gpu.json")
    options = parser.parse_args(argv)
    if options.json is None:
        options.json = default_place(options, parser)
    if options.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    if options.aot:
        from benchmarks.gpu.ahead import compile_manifest

        return compile_manifest(options.only, options.configurations, options.workers)
    from mcomp.backend import backend_named

    reason = backend_named("cuda").available()
    if reason is not None:
        print(f"nothing can be checked here: {reason}\n{report.NO_FIGURES}", file=sys.stderr)
        return 1
    from benchmarks.gpu.run import run

    return run(options)


if __name__ == "__main__":
    raise SystemExit(main())
