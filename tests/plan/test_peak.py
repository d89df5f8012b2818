"""The share of the machine's peak that a kernel reaches, and what binds it."""

import pytest

from mcomp.backend import KernelInfo
from mcomp.plan import peak
from mcomp.plan.peak import peak_fraction
from mcomp.plan.profile import DeviceProfile

PROFILE = DeviceProfile(
    "chip", 2, (("f32", 1e11), ("scalar", 1e10)), ((1 << 15, 1e11), (1 << 25, 1e10)), 1.5,
    limits=(("f32", 2e11), ("i8", 8e11)), reads=((1 << 15, 4e11), (1 << 25, 2e10)),
)


def kernel(*ops: str, flops: int = 0, read: int = 0, write: int = 0, compute: str = "f32") -> KernelInfo:
    return KernelInfo("k", ops, (), True, flops, read, write, compute=compute)


@pytest.mark.parametrize(("given", "microseconds", "share", "bound"), [
    (kernel("linear", "relu", flops=2 * 10**9), 20_000.0, 0.5, "operations"),
    (kernel("linear", flops=8 * 10**9, compute="i8"), 40_000.0, 0.25, "operations"),
    (kernel("add", flops=10**8, compute="i8"), 20_000.0, 0.5, "operations"),
    (kernel("add", flops=1, read=1 << 14, write=1 << 14), (1 << 15) / 4e5 * 4, 0.25, "bytes"),
    (kernel("linear", flops=10**6, read=10**8), 10_000.0, 0.5, "bytes"),
])
def test_the_share_is_of_what_takes_longest_at_the_most_that_the_machine_can(
    given: KernelInfo, microseconds: float, share: float, bound: str
) -> None:
    found, what = peak_fraction(profile=PROFILE)(given, microseconds)
    assert found == pytest.approx(share)
    assert what == bound


def test_a_profile_without_limits_is_its_own_peak() -> None:
    plain = DeviceProfile("chip", 2, PROFILE.rates, PROFILE.bandwidth, 1.5)
    assert peak_fraction(profile=plain)(kernel("linear", flops=10**9), 10_000.0) == (pytest.approx(1.0), "operations")
    assert peak_fraction(profile=plain)(kernel("copy", read=10**8), 20_000.0) == (pytest.approx(0.5), "bytes")


def test_no_work_and_no_time_have_no_share() -> None:
    share = peak_fraction(profile=PROFILE)
    assert share(kernel("copy"), 3.0) == (None, "")
    assert share(kernel("linear", flops=10), 0.0) == (None, "")


def test_the_peak_is_that_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []
    monkeypatch.setattr(peak, "device_profile", lambda target, threads: asked.append((target, threads)) or PROFILE)
    assert peak_fraction("cuda", 3)(kernel("linear", flops=2 * 10**9), 10_000.0)[0] == pytest.approx(1.0)
    assert asked == [("cuda", 3)]
