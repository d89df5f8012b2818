"""Running a clean-up in nested graphs: the branches of `cond`."""

from __future__ import annotations

from collections.abc import Callable

from mcomp.ir.graph import Graph


def in_branches(graph: Graph, label: str, run: Callable[[Graph], bool]) -> bool:
    """Run `run` on the branches of every `cond`, nested ones too; returns whether any changed.

    A branch is cleaned as a copy and put in place by an edit of the outer graph, so that the outer version counts the
    change. Bodies of `fused` nodes are left alone: they are kernels.
    """
    changed = False
    for node in graph.nodes:
        if node.op.name != "cond":
            continue
        for name in ("then", "else"):
            branch = node.attrs[name].clone()
            if not (in_branches(branch, label, run) | run(branch)):
                continue
            with graph.edit(label, node.loc) as editor:
                editor.set_attrs(node, **{name: branch})
            changed = True
    return changed
