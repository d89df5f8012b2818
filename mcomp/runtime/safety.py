"""What a graph from a stranger may call."""

from __future__ import annotations

from mcomp.errors import ArtifactError, IRError
from mcomp.ir.graph import Graph
from mcomp.ops.opaque import OpaqueOp, resolve

NAMESPACES = frozenset({"aten", "torchvision", "torchaudio", "transformers"})
"""Libraries whose functional operators a loaded graph may call."""


def check_opaque(graph: Graph) -> list[str]:
    """Names of the opaque operators of a graph. Raises ArtifactError for one that is not on the allow-list.

    Allowed are functional operators of torch's own libraries, by schema. Where torch is not installed, a graph with
    opaque operators cannot run; the error says so.
    """
    found: dict[str, None] = {}
    for node in graph.walk():
        if not isinstance(node.op, OpaqueOp) or node.op.name in found:
            continue
        if node.op.name.split(".", 1)[0] not in NAMESPACES:
            raise ArtifactError(
                f"the graph calls {node.op.name}, which is not on the allow-list", code="MC0706",
                where=str(node.loc) or None, help=f"operators of {', '.join(sorted(NAMESPACES))} may be called",
            )
        try:
            resolve(node.op.name)
        except ImportError as e:
            raise ArtifactError(
                f"{node.layer} calls {node.op.name}, which torch runs, and torch is not installed", code="MC0705",
                where=str(node.loc) or None, help="install torch, or optimize the model without that operator",
            ) from e
        except IRError as e:
            raise ArtifactError(
                f"the graph calls {node.op.name}: {e.message}", code="MC0706", where=str(node.loc) or None, help=e.help
            ) from e
        found[node.op.name] = None
    return list(found)
