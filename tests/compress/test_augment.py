"""Changes of inputs: same shapes, same kind, random by torch's generator."""

import pytest
import torch

from mcomp.passes.compress.training.augment import NAMED, augmentation, misfit


@pytest.mark.parametrize("name", sorted(NAMED))
def test_shapes_stay_and_the_generator_decides(name: str) -> None:
    x = torch.randn(5, 3, 16, 16)
    torch.manual_seed(1)
    (first,) = augmentation(name)([x])
    torch.manual_seed(1)
    (again,) = augmentation(name)([x])
    assert first.shape == x.shape and torch.equal(first, again) and not torch.equal(first, x)


def test_images_are_mirrored_or_shifted_only() -> None:
    x = torch.arange(2.0 * 64).reshape(2, 1, 8, 8) + 1
    torch.manual_seed(0)
    (found,) = augmentation("images")([x])
    for before, after in zip(x, found):
        kept = set(after.flatten().tolist()) - {0.0}
        assert kept <= set(before.flatten().tolist()) and len(kept) >= 49


def test_mixtures_lie_between_samples() -> None:
    x = torch.tensor([[0.0], [1.0]])
    (found,) = augmentation("mix")([x])
    assert bool(((found >= 0) & (found <= 1)).all())


def test_what_does_not_fit_is_said() -> None:
    assert misfit("mix", [torch.zeros(2, 3, dtype=torch.int64)]) is not None
    assert misfit("images", [torch.zeros(2, 3)]) is not None
    assert misfit("mix", [torch.zeros(2, 3)]) is None
    assert misfit(lambda inputs: inputs, [torch.zeros(2, dtype=torch.int64)]) is None
