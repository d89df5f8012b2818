"""Errors of mcomp: what happened, where, the line of IR, and what to do about it."""

from __future__ import annotations

EVALUATE_RAISED = "MC0520"
"""Code of the error that stands for one of the user's `evaluate`, which is its cause."""


def install(extra: str) -> str:
    """What to type for the packages that an extra of mcomp's brings."""
    return f'pip install -e ".[{extra}]" in the folder of mcomp\'s source'


class McompError(Exception):
    """Base of every error that mcomp raises on purpose.

    `code` is a stable identifier (`MC0203`), `where` names the layer and the source line, `ir` is the line of IR
    concerned, `help` says what to do. `str(error)` joins them.
    """

    default_code = "MC0000"

    def __init__(
        self, message: str, *, code: str | None = None, where: str | None = None, ir: str | None = None,
        help: str | None = None,
    ) -> None:
        self.code = code or self.default_code
        self.message = message
        self.where = where
        self.ir = ir
        self.help = help
        super().__init__(self._render())

    def _render(self) -> str:
        head = f"{self.code} {self.message}"
        if self.where:
            head += f" ({self.where})"
        lines = [head]
        if self.ir:
            lines += ["  " + line for line in self.ir.splitlines()]
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


class IRError(McompError):
    """The IR is malformed: wrong operands, types that do not fit, a use before its definition."""

    default_code = "MC0100"


class ParseError(McompError):
    """Text that is not IR or not a pipeline; the message shows the line with a caret."""

    default_code = "MC0101"


class VerifyError(McompError):
    """A graph that breaks a rule of the IR; the message prints the graph around the node at fault."""

    default_code = "MC0102"


class PassError(McompError):
    """A pass that cannot do what was asked: unknown name or option, infeasible layer."""

    default_code = "MC0200"


class CaptureError(McompError):
    """A model that cannot be captured as asked."""

    default_code = "MC0300"


class CallError(McompError):
    """A compiled model was called with arguments it does not accept."""

    default_code = "MC0400"


class BudgetError(McompError):
    """Calibration or evaluation input that cannot be used."""

    default_code = "MC0500"


class BackendError(McompError):
    """Lowering, compiling or running generated code failed."""

    default_code = "MC0600"


class ArtifactError(McompError):
    """A `.mcomp` file that cannot be read: damaged, newer, for another machine, or not to be trusted."""

    default_code = "MC0700"
