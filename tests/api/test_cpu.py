"""The front door with generated code: one lossless and one int8 model, shared by all tests."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import mcomp
import mcomp.backend
from mcomp.backends.cpu import library
from mcomp.errors import ArtifactError
from tests.api.models import batches, wide

pytestmark = pytest.mark.skipif(
    mcomp.backend.backend_named("cpu").available() is not None, reason="there is no C++ compiler on this machine"
)
X = batches(1)[0][0]


@pytest.fixture(scope="module")
def lossless() -> mcomp.CompiledModel:
    return mcomp.optimize(wide(), (X,), threads=2)


@pytest.fixture(scope="module")
def int8() -> mcomp.CompiledModel:
    return mcomp.optimize(wide(), (X,), calibration=batches(), pipeline="quantize{bits=8}", threads=2)


def test_lossless_agrees_and_runs_in_generated_code(lossless: mcomp.CompiledModel) -> None:
    for x in (X, torch.randn(1, 64), torch.randn(33, 64)):
        torch.testing.assert_close(lossless(x), wide()(x), rtol=1e-5, atol=1e-6)
    report = lossless.report()
    assert (report.native_nodes, report.native_flops) == (1.0, 1.0)
    assert not report.eager_modules
    assert not report.opaque_nodes
    assert not report.torch_nodes
    assert "100.0% of nodes" in str(report)


@pytest.mark.parametrize("kind", ["lossless", "int8"])
def test_a_saved_model_gives_the_same_bits(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fast = request.getfixturevalue(kind)
    again = mcomp.load(fast.save(tmp_path / "model.mcomp"), threads=2)
    trusted = mcomp.load(tmp_path / "model.mcomp", trust_code=True, threads=2)
    for x in (X, torch.randn(1, 64), torch.randn(5, 64).t().contiguous().t()):
        assert torch.equal(again(x), fast(x))
        assert torch.equal(trusted(x), fast(x))
    assert str(again.ir) == str(fast.ir)
    assert again.report().to_json() == fast.report().to_json()


class Leading(torch.nn.Module):
    """Operators that torch runs, on what is at the beginning of something larger."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, rest = torch.split(x * 2.0 + 1.0, [1, 3])
        return torch.digamma(x[0]) + torch.digamma(x[:2]).sum(0) + torch.digamma(first)[0] + rest.sum(0)


def test_what_torch_runs_on_the_beginning_of_a_tensor() -> None:
    x = torch.rand(4, 5) + 1.0
    fast = mcomp.optimize(Leading().eval(), (x,), dynamic=False, threads=2, progress=False)
    torch.testing.assert_close(fast(x), Leading()(x))
    torch.testing.assert_close(torch.as_tensor(fast(x.numpy())), Leading()(x))


def test_trusted_code_is_loaded_once(int8: mcomp.CompiledModel, tmp_path: Path) -> None:
    int8.save(tmp_path / "model.mcomp")
    found = []
    for _ in range(3):
        mcomp.load(tmp_path / "model.mcomp", trust_code=True, threads=2)(X)
        found.append(dict(library._LOADED))
    assert found[0] and found[0] == found[1] == found[2]


def test_the_loader_needs_no_torch(int8: mcomp.CompiledModel, tmp_path: Path) -> None:
    int8.save(tmp_path / "model.mcomp")
    np.save(tmp_path / "x.npy", X.numpy())
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, mcomp\n"
        "model = mcomp.load('model.mcomp', threads=2)\n"
        "np.save('y.npy', model(np.load('x.npy')))\n"
        "print([m for m in ('networkx', 'rich', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), int8(X).numpy())


def test_a_full_disk_leaves_the_old_file(lossless: mcomp.CompiledModel, int8: mcomp.CompiledModel, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing beyond it fails in the same place."""
    resource = pytest.importorskip("resource")
    import signal

    path = lossless.save(tmp_path / "model.mcomp")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ArtifactError, match=r"could not be written.*\n.*free space"):
            int8.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.mcomp"]
    torch.testing.assert_close(int8(X), wide()(X), rtol=0.1, atol=0.1)


def test_calls_from_several_threads(int8: mcomp.CompiledModel) -> None:
    inputs = [torch.randn(n, 64) for n in (1, 4, 17)]
    expected = [int8(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(30) if not torch.equal(int8(inputs[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bind_fills_the_same_output(lossless: mcomp.CompiledModel) -> None:
    x = X.clone()
    run = lossless.bind(x)
    first = run()
    x.mul_(2)
    assert run() is first
    torch.testing.assert_close(first, lossless(x))


def test_the_dump_holds_the_source(lossless: mcomp.CompiledModel, tmp_path: Path) -> None:
    lossless.dump(tmp_path)
    assert 'extern "C"' in (tmp_path / "model.cpp").read_text()
    assert "fused" in (tmp_path / "model.lowered.mir").read_text()


def test_inference_mode_and_strides(lossless: mcomp.CompiledModel) -> None:
    wanted = wide()(X)
    with torch.inference_mode():
        torch.testing.assert_close(lossless(X.t().contiguous().t()), wanted, rtol=1e-5, atol=1e-6)
    found = lossless(X.numpy()[::-1])
    np.testing.assert_allclose(found, wanted.detach().numpy()[::-1], rtol=1e-5, atol=1e-6)
