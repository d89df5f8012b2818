"""The command line.

Exit codes: 0 done; 1 the answer is no (outputs differ, a budget was not met, something is missing on this machine);
2 wrong usage; 3 an error, which is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from mcomp.errors import EVALUATE_RAISED, McompError

COMMANDS = {
    "optimize": "compile a model and save it",
    "inspect": "show what a .mcomp or .mir file holds",
    "run": "run a saved model on arrays",
    "bench": "time a saved model",
    "compare": "find the first layer where two models differ",
    "opt": "run passes over a graph",
    "passes": "list passes, or explain one",
    "bisect": "find the pass and the rewrite that break a check",
    "demo": "train, optimize, save, load and compare a small model",
    "doctor": "check this machine: compiler, instruction sets, threads, cache, peak rates",
}

OK, NO, USAGE, ERROR = 0, 1, 2, 3


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; with `only`, just that command has its options (the others need not be imported)."""
    import mcomp

    top = argparse.ArgumentParser(prog="mcomp", description="Makes trained PyTorch models smaller and faster.")
    top.add_argument("--version", action="version", version=f"mcomp {mcomp.__version__}")
    commands = top.add_subparsers(dest="command", metavar="command", required=True)
    for name, help in COMMANDS.items():
        sub = commands.add_parser(name, help=help, description=help.capitalize() + ".")
        if only is None or name == only:
            import_module(f"mcomp.commands.{name}").add(sub)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    named = next((a for a in given if a in COMMANDS), "")
    arguments = parser(named).parse_args(given)
    try:
        return int(import_module(f"mcomp.commands.{arguments.command}").run(arguments))
    except McompError as e:
        if e.code == EVALUATE_RAISED and e.__cause__ is not None:  # the user's own code: where it failed matters
            traceback.print_exception(e.__cause__)
        print(f"mcomp: {e}", file=sys.stderr)
        return ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
        return OK
    except OSError as e:
        print(f"mcomp: {e}", file=sys.stderr)
        return ERROR
    except Exception:
        traceback.print_exc()
        return ERROR
    except KeyboardInterrupt:
        print("mcomp: interrupted", file=sys.stderr)
        return ERROR


if __name__ == "__main__":
    sys.exit(main())
