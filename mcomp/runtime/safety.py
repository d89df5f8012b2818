"""What a graph from a stranger may call."""

from __future__ import annotations

from mcomp.errors import ArtifactError, IRError
from mcomp.ir.graph import Graph
from mcomp.ops.opaque import OpaqueOp, resolve

NAMESPACES = frozenset({"aten", "torchvision", "torchaudio", "transformers"})
"""Libraries whose functional operators a loaded graph may call."""
INTERNAL = frozenset({
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_cdist_forward", "_conj_physical", "_embedding_bag",
    "_embedding_bag_forward_only", "_euclidean_dist", "_fft_c2c", "_fft_c2r", "_fft_r2c", "_fused_rms_norm",
    "_grouped_mm", "_int_mm", "_linalg_det", "_linalg_eigh", "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd",
    "_log_softmax", "_logcumsumexp", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_pdist_forward", "_prelu_kernel", "_safe_softmax", "_scaled_dot_product_flash_attention_for_cpu", "_softmax",
    "_stack", "_to_copy", "_trilinear", "_unique", "_unique2", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_weight_norm",
    "_weight_norm_interface",
})
"""Internal operators of torch that check what they are given. Others rely on their callers for that: with arguments of a
stranger they would read and write anywhere."""


def check_opaque(graph: Graph, *, trusted: bool = False) -> list[str]:
    """Names of the opaque operators of a graph. Raises ArtifactError for one that is not on the allow-list.

    Allowed are functional operators of torch's own libraries, by schema, of internal ones a few (`trusted`: all). Where
    torch is not installed, a graph with opaque operators cannot run; the error says so.
    """
    found: dict[str, None] = {}
    for node in graph.walk():
        if not isinstance(node.op, OpaqueOp) or node.op.name in found:
            continue
        namespace, name, *_ = [*node.op.name.split("."), ""]
        if namespace not in NAMESPACES or (name.startswith("_") and name not in INTERNAL and not trusted):
            raise ArtifactError(
                f"the graph calls {node.op.name}, which is not on the allow-list", code="MC0706",
                where=str(node.loc) or None,
                help=f"operators of {', '.join(sorted(NAMESPACES))} may be called, internal ones of a file that you trust "
                "with load(path, trust_code=True)",
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
