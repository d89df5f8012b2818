"""Reports as tables: rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from mcomp.report.report import Report, Row

WIDTH = 160
LEGEND = (
    "For one call on the example arguments; a -> b: a before, b now (of times: in the lossless version, and now); "
    "predicted: from this machine's peak rates.\n"
)


def quantity(value: float | None, unit: str = "", base: int = 1000) -> str:
    """A number with a prefix: 12.3 M; `-` for None."""
    if value is None:
        return "-"
    magnitude = float(value)
    prefixes = ("", "K", "M", "G", "T") if base == 1000 else ("", "Ki", "Mi", "Gi", "Ti")
    for prefix in prefixes:
        if abs(magnitude) < base or prefix == prefixes[-1]:
            digits = 0 if not prefix and magnitude == int(magnitude) else (2 if abs(magnitude) < 10 else 1)
            return f"{magnitude:.{digits}f} {prefix}{unit}".rstrip()
        magnitude /= base
    return f"{magnitude:g}"


def microseconds(value: float | None) -> str:
    """A time in microseconds, `-` for None."""
    return "-" if value is None else (f"{value:.1f}" if value < 1000 else f"{value:.0f}")


def share(value: float) -> str:
    """A share as percent; 100.0% is all of it."""
    text = f"{value:.1%}"
    return "99.9%" if text == "100.0%" and value < 1 else text


def report_text(report: Report, width: int = WIDTH) -> str:
    """The report as plain text."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, color_system=None, force_terminal=False, legacy_windows=False, emoji=False,
    )
    for part in renderables(report):
        console.print(part, markup=False)  # texts of users and passes are no markup
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the report to a console (default: standard output)."""
    from rich.console import Console

    chosen = console or Console(emoji=False)
    if not chosen.is_terminal:
        chosen.file.write(report_text(report) + "\n")
        return
    for part in renderables(report):
        chosen.print(part, markup=False)


def renderables(report: Report) -> Iterable[RenderableType]:
    """The parts of a report, top to bottom."""
    yield _head(report)
    if report.rows:
        yield _layers(report.rows, report.total or _total(report.rows))
        yield LEGEND
    if report.stages:
        yield _stages(report)
    if report.evaluations:
        yield _evaluations(report)
    yield from _words(report)


def _table(title: str, *columns: tuple[str, str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "r" else "left", overflow="fold")
    return table


def _head(report: Report) -> str:
    native = f"{share(report.native_nodes)} of nodes and {share(report.native_flops)} of FLOPs run in generated code"
    lines = [f"{report.model or 'model'} for {report.target}, objective {report.objective}: {native}"]
    if report.pipeline:
        lines.append(f"pipeline: {report.pipeline}")
    if report.budget:
        verdict = {True: "met", False: "NOT met", None: "not judged"}[report.within_budget]
        lines.append(f"budget: {report.budget}: {verdict}")
    return "\n".join(lines)


def _layers(rows: list[Row], total: Row) -> Table:
    table = _table(
        "layers", ("layer", "l"), ("ops", "l"), ("done", "l"), ("why", "l"), ("weights", "r"), ("FLOPs", "r"),
        ("predicted us", "r"), ("measured us", "r"),
    )
    table.columns[0].no_wrap = True
    for r in rows:
        table.add_row(
            r.layer or "(model)", r.ops, r.done if r.native else f"{r.done} (torch)", r.why,
            change(quantity(r.weight_bytes_before, "B"), quantity(r.weight_bytes, "B")),
            change(quantity(r.flops_before), quantity(r.flops)), microseconds(r.predicted_us),
            change(microseconds(r.measured_before_us), microseconds(r.measured_us)),
        )
    table.add_section()
    table.add_row(
        "total", "", "", "",
        change(quantity(total.weight_bytes_before, "B"), quantity(total.weight_bytes, "B")),
        change(quantity(total.flops_before), quantity(total.flops)), microseconds(total.predicted_us),
        _total_time(rows, total),
    )
    return table


def change(before: str, now: str) -> str:
    """`before -> now`, or just the value where it stayed the same or there was none before."""
    return now if before in (now, "-") else f"{before} -> {now}"


def _total(rows: Sequence[Row]) -> Row:
    """The sums of rows, for a report without totals; None for times that a row which was measured lacks."""
    from mcomp.report.report import Row

    measured = [r for r in rows if r.measured_us is not None]
    return Row(
        "total", "", "", weight_bytes_before=sum(r.weight_bytes_before for r in rows),
        weight_bytes=sum(r.weight_bytes for r in rows), flops_before=sum(r.flops_before for r in rows),
        flops=sum(r.flops for r in rows), predicted_us=_sum(r.predicted_us for r in measured),
        measured_us=_sum(r.measured_us for r in measured), measured_before_us=_sum(r.measured_before_us for r in measured),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; None where a number is not known, or there is none."""
    given = list(values)
    known = [v for v in given if v is not None]
    return sum(known) if known and len(known) == len(given) else None


def _total_time(rows: Sequence[Row], total: Row) -> str:
    """Before and now, with `-` for a side of which only parts are known."""
    before, now = microseconds(total.measured_before_us), microseconds(total.measured_us)
    partly = total.measured_before_us is None and any(r.measured_before_us is not None for r in rows)
    return f"- -> {now}" if partly else change(before, now)


def _stages(report: Report) -> Table:
    table = _table(
        "versions", ("version", "l"), ("quality", "r"), ("output error", "r"), ("ms", "r"), ("speed", "r"), ("weights", "r"),
        ("", "l"),
    )
    original = report.original.latency_ms
    for s in report.stages:
        speed = f"{original / s.latency_ms:.2f}x" if original and s.latency_ms else "-"
        table.add_row(
            s.name, "-" if s.quality is None else f"{s.quality:.5g}", "-" if s.error is None else f"{s.error:.2e}",
            "-" if s.latency_ms is None else f"{s.latency_ms:.4g}", speed, quantity(s.weight_bytes, "B"), s.verdict,
        )
    return table


def _evaluations(report: Report) -> Table:
    table = _table("calls of evaluate", ("#", "r"), ("model", "l"), ("result", "r"), ("seconds", "r"))
    for i, e in enumerate(report.evaluations, 1):
        table.add_row(str(i), str(e.get("model", "")), f"{e.get('result', float('nan')):.5g}", f"{e.get('seconds', 0):.2f}")
    return table


def _words(report: Report) -> Iterable[str]:
    for e in report.eager_modules:
        yield f"eager: {e.path or 'the whole model'}: {e.reason}" + (f" ({e.remedy})" if e.remedy else "")
    if report.opaque_nodes:
        listed = ", ".join(f"{name} x{count}" for name, count in report.opaque_nodes.items())
        yield f"opaque, run by torch: {listed}"
    if report.torch_nodes:
        listed = ", ".join(f"{name} x{count}" for name, count in report.torch_nodes.items())
        yield f"run by torch: {listed}"
    for remark in report.remarks:
        if remark["kind"] in ("missed", "warning"):
            remedy = f" ({remark['remedy']})" if remark.get("remedy") else ""
            yield f"{remark['kind']}: {remark['rule']}: {remark['layer'] or '(model)'}: {remark['reason']}{remedy}"
    yield from report.notes
    if report.seconds:
        spent = ", ".join(f"{k} {v:.1f} s" for k, v in report.seconds.items() if v >= 0.05)
        yield f"time: {spent or 'less than 0.1 s'}"
