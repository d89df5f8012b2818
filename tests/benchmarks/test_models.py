"""The benchmark networks, cases without data, metrics, and a whole run of one small case through a worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from benchmarks import cpu, metrics, models
from benchmarks.case import Case, Samples, tensors
from benchmarks.networks import CifarResNet, MeanPooled, ResNet18, mlp, randomize
from benchmarks.remote import Remote, WorkerFailed
from benchmarks.results import Results
from benchmarks.worker import Job, Tried, choose


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_cifar_resnets_have_the_published_size() -> None:
    assert round(_parameters(CifarResNet(3)) / 1e6, 2) == 0.27
    assert round(_parameters(CifarResNet(9)) / 1e6, 2) == 0.85


def test_a_case_whose_data_is_missing_says_which(tmp_path: Path) -> None:
    with pytest.raises(models.Unavailable, match=r"isolet0: .*isolet\.npz is missing"):
        models.load("isolet0", models.Options(tmp_path, kept=tmp_path))


def test_resnet18_has_the_published_size() -> None:
    assert _parameters(ResNet18()) == 11_689_512


@pytest.mark.parametrize(
    ("network", "shape"), [(CifarResNet(3), (3, 32, 32)), (ResNet18(7), (3, 64, 64)), (mlp((10, 8, 3)), (10,))]
)
def test_networks_treat_rows_of_a_batch_alike(network: nn.Module, shape: tuple[int, ...]) -> None:
    randomize(network)
    x = torch.randn(3, *shape)
    with torch.inference_mode():
        together, alone = network(x), network(x[1:2])
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    first, second = (randomize(CifarResNet(3), 3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = randomize(CifarResNet(3), 4).state_dict()
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_mean_pooling_ignores_padding() -> None:
    class Encoder(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            from types import SimpleNamespace

            return SimpleNamespace(last_hidden_state=input_ids.unsqueeze(-1).float())

    pooled = MeanPooled(Encoder())(torch.tensor([[2, 4, 100]]), torch.tensor([[1, 1, 0]]))
    assert pooled.tolist() == [[3.0]]


@pytest.mark.parametrize("name", ["mlp_large", "mlp_small", "resnet18"])
def test_cases_with_random_weights_need_no_data(name: str) -> None:
    case = models.load(name, models.Options(batch=2))
    assert len(case.calibration) >= 64
    assert case.example[0].shape[0] == case.batch == 2
    module = case.build()
    assert not module.training
    with torch.inference_mode():
        assert module(*tensors(case.example)).shape[0] == 2


def test_batches_are_always_full_and_outputs_cut_to_the_samples() -> None:
    samples = Samples((np.arange(5.0).reshape(5, 1),), np.zeros(5))
    case = Case("x", "x", 2, ("x",), nn.Identity, (np.zeros((2, 1)),), samples)
    shapes: list[tuple[int, ...]] = []

    def run(x: np.ndarray) -> np.ndarray:
        shapes.append(x.shape)
        return 2 * x

    assert case.outputs(run, samples).tolist() == [[0.0], [2.0], [4.0], [6.0], [8.0]]
    assert shapes == [(2, 1)] * 3


def test_top1_counts_rows() -> None:
    outputs = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert metrics.top1(outputs, np.array([1, 0, 0])) == pytest.approx(200 / 3)


def test_spearman_agrees_with_scipy_with_ties() -> None:
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((80, 6)).astype(np.float32)
    labels = random.integers(0, 5, 40).astype(float)
    first, second = embeddings[:40], embeddings[40:]
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    wanted = 100 * spearmanr(cosine, labels).statistic
    assert metrics.spearman_of_cosine(embeddings, labels) == pytest.approx(wanted, abs=1e-6)


def test_relative_l2_is_zero_for_equal_and_one_for_nothing() -> None:
    reference = np.array([3.0, 4.0])
    assert metrics.relative_l2(reference, reference) == 0.0
    assert metrics.relative_l2(np.zeros(2), reference) == 1.0


def test_the_fastest_candidate_within_tolerance_is_chosen() -> None:
    slow, fast, wrong = Tried("slow", 1, 3.0, 90.0), Tried("fast", 1, 2.0, 89.5), Tried("wrong", 1, 1.0, 50.0)
    broken = Tried("broken", 1, error="no")
    assert choose([slow, fast, wrong, broken], 90.0) is fast
    assert choose([wrong, broken], 90.0) is wrong
    assert choose([slow, wrong], None) is wrong
    with pytest.raises(ValueError, match="broken: no"):
        choose([broken], None)


def test_a_whole_run_of_eager(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "r.json"
    words = ["--models", "mlp_small", "--peers", "eager", "--ours", "", "--rounds", "2", "--burst", "0.01"]
    assert cpu.main([*words, "--threads", "1", "--json", str(output)]) == 0
    case = Results.read(output).cases[0]
    entry = case.entry("eager")
    assert entry is not None
    assert len(entry.rounds_ms) == 2
    assert entry.calls > 0
    assert entry.size_bytes == 4 * (100 * 64 + 64 + 64 * 32 + 32 + 32 + 1)
    assert str(tmp_path) not in Results.read(output).command
    assert "MLP 100-64-32-1, batch 32" in capsys.readouterr().out


def _job(case: str, scratch: Path) -> Job:
    return Job(case, "eager", "fp32", models.Options(), 1, scratch, True)


def test_a_failing_worker_says_why_and_lives_on(tmp_path: Path) -> None:
    with Remote(_job("mlp_small", tmp_path)) as remote:
        with pytest.raises(WorkerFailed, match="prepare has not been called"):
            remote("outputs")
        assert remote("prepare", None, 0.001).chosen == "inference_mode"


def test_a_dead_worker_is_reported(tmp_path: Path) -> None:
    with Remote(_job("mlp_small", tmp_path)) as remote:
        remote.process.kill()
        with pytest.raises(WorkerFailed, match="died with exit code -9"):
            remote("outputs")


def test_a_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with Remote(_job("mlp_small", tmp_path), limit_s=0.01) as remote:
        with pytest.raises(WorkerFailed, match="longer than 0 s"):
            remote("prepare", None, 0.1)
        remote.process.join(10)
        assert not remote.process.is_alive()
