"""`mcomp demo`."""

from __future__ import annotations

import argparse

from mcomp.commands.common import writable


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--model", choices=["digits", "minilm"], default="digits")
    parser.add_argument("-o", "--output", help="where to save the model (default: digits.mcomp or minilm.mcomp)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration. 1 when the reloaded model does not agree or the budget is not met."""
    from mcomp.demo import digits, minilm

    chosen = {"digits": digits, "minilm": minilm}[arguments.model]
    output = arguments.output or f"{arguments.model}.mcomp"
    writable(output)
    return chosen.main(output)
