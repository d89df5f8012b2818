"""prune: options that nothing heeds are refused, layers behind sparse ones are fitted, scores and statistics are what they
say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcomp.errors import PassError
from mcomp.ir import Graph, Node, parse_graph
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.curves import Score, prune_curves
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, layers, mixed, mlp, random
from tests.compress.networks import cleaned
from tests.compress.test_prune import MLP, inputs

UNTILED = "prune{what=blocks,ratio=0.5,block=[16,4]}"
"""Blocks that the last layer of the MLP cannot have."""


@pytest.mark.parametrize(("options", "message"), [
    ("what=blocks,score=taylor", "score=taylor is for units, not for blocks"),
    ("what=nm,score=magnitude", "score=magnitude is for units, not for nm"),
    ("what=branches,score=activation", "score=activation is for units, not for branches"),
    ("what=blocks,flops=0.5", "flops chooses units and branches, not blocks"),
    ("what=[ffn,nm],flops=0.5", "flops chooses units and branches, not nm"),
    ('what=blocks,widths=["fc1.weight:0=8"]', "widths chooses units and branches, not blocks"),
])
def test_options_that_nothing_heeds(options: str, message: str) -> None:
    with pytest.raises(PassError, match=message) as caught:
        PassManager(f"prune{{{options}}}").run(mlp(), Context(calibration=Calibration([[random(10, 64)]])))
    assert caught.value.help


def test_layers_behind_blocks_are_fitted() -> None:
    graph, x = parse_graph(MLP, generate=True), [inputs()]
    found, context, error = compressed(graph, UNTILED, [x])
    plain, _, unfitted = compressed(graph, UNTILED.replace("ratio", "refit=false,ratio"), [x])
    assert error < 0.98 * unfitted
    assert found.value("w").tensor == plain.value("w").tensor and found.value("u").tensor == graph.value("u").tensor
    before, after, kept = (g.value("u").weight.decode() for g in (graph, found, plain))  # type: ignore[union-attr]
    assert not np.array_equal(before, after) and np.array_equal(before, kept)
    _, context, _ = compressed(graph, UNTILED, [x], exclude=["fc3"])
    assert any(r.layer == "fc3" and "excluded" in r.reason for r in context.remarks)


def test_layers_behind_pairs_are_fitted() -> None:
    """Of the inputs of the second layer alone are there 64."""
    graph, x = parse_graph(MLP, generate=True), [inputs()]
    found, _, error = compressed(graph, "prune{what=nm,n=32,m=64}", [x])
    assert [e.layer for e in found.ledger] == ["fc2"] and found.value("u").tensor == graph.value("u").tensor
    _, _, unfitted = compressed(graph, "prune{what=nm,n=32,m=64,refit=false}", [x])
    assert error < 0.95 * unfitted


# scores


def sequence(*modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    for module in modules:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return nn.Sequential(*modules).eval()


def first_gone(graph: Graph, x: torch.Tensor, score: Score) -> int:
    """The unit of the first dimension that goes first."""
    curves = prune_curves(graph, Context(calibration=Calibration([[x]])), score=score)
    return int(next(c for c in curves if c.key == "0.weight:0").order[0])


def test_a_unit_with_zero_gradient_goes_first_by_taylor() -> None:
    """Unit 7 is large and feeds unit 3 of the next layer alone, which is always off."""
    first, second = nn.Linear(16, 24), nn.Linear(24, 12)
    net = sequence(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(12, 5))
    with torch.no_grad():
        first.weight[7] *= 5
        second.weight[:, 7] = 0
        second.weight[3, 7] = 5
        assert second.bias is not None
        second.bias[3] = -1000
    x = random(200, 16)
    graph = cleaned(net, (x,))
    assert first_gone(graph, x, "taylor") == 7
    assert 7 not in [first_gone(graph, x, score) for score in ("obs", "activation", "magnitude")]  # type: ignore[arg-type]


def test_a_unit_with_zero_deviation_goes_first_by_activation() -> None:
    """Unit 5 is always 3, and what reads it has large weights."""
    first, second = nn.Linear(16, 24), nn.Linear(24, 12)
    net = sequence(first, nn.ReLU(), second)
    with torch.no_grad():
        first.weight[5] = 0
        assert first.bias is not None
        first.bias[5] = 3
        second.weight[:, 5] = 10
    x = random(200, 16)
    graph = cleaned(net, (x,))
    assert first_gone(graph, x, "activation") == 5 and first_gone(graph, x, "taylor") != 5


# statistics


def seen(graph: Graph, x: list[Any], node: Node) -> torch.Tensor:
    """What a node reads first, its channels last, [positions, channels]."""
    held: dict[Any, Any] = dict(zip(graph.inputs, x))
    run_graph(graph, x, observe=lambda n, outputs: held.update(zip(n.results, outputs)))
    data = held[node.operand(0)].movedim(1, -1).double()
    return data.reshape(-1, data.shape[-1])


def test_statistics_of_batch_norms_are_those_of_the_data() -> None:
    norm = nn.BatchNorm2d(16)
    convs = (nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 5, 3, padding=1))
    net = sequence(convs[0], nn.ReLU(), convs[1], nn.ReLU(), norm, nn.ReLU(), convs[2])
    x = mixed(8, 8, 8, 3).movedim(-1, 1).contiguous()
    with torch.no_grad():
        data = net[:4](x)
        norm.running_mean, norm.running_var = data.mean((0, 2, 3)), data.var((0, 2, 3), correction=0)
    found, _, _ = compressed(cleaned(net, (x,)), "prune{ratio=0.5}", [[x]])
    (node,) = [n for n in found.nodes if n.op.name == "batch_norm"]
    held = seen(found, [x], node)
    mean, variance = (torch.from_numpy(node.operand(i).weight.decode().copy()).double() for i in (1, 2))
    assert held.shape[1] == 8 == len(mean)
    torch.testing.assert_close(mean, held.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(variance, held.var(0, correction=0), rtol=1e-3, atol=1e-4)


def test_deviations_of_convolutions_are_restored() -> None:
    convs = (nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 5, 1))
    net = sequence(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
    x = random(16, 3, 8, 8)
    graph = cleaned(net, (x,))
    deviations = {}
    narrow = 'prune{variance=VALUE,widths=["0.weight:0=10"]}'
    texts = (("dense", "prune{ratio=0.0}"), ("restored", narrow.replace("VALUE", "true")),
             ("plain", narrow.replace("VALUE", "false")))
    for name, text in texts:
        found, _, error = compressed(graph, text, [[x]])
        assert (error > 0) is (name != "dense")
        second = layers(found)[1]
        assert second.operand(1).tensor.static_shape[1] == (16 if name == "dense" else 10)
        deviations[name] = seen(found, [x], second.result.users[0]).std(0)
    dense, restored, plain = deviations.values()
    assert bool((plain < 0.99 * dense).all())
    torch.testing.assert_close(restored, dense, rtol=1e-3, atol=1e-4)
