"""What is sampled of activations: all kinds of rows, whatever pattern they come in."""

import torch

from mcomp.passes.compress.samples import Sample, error_by_row


def test_rows_of_equally_long_sentences_are_not_all_of_the_same_token() -> None:
    tokens = torch.arange(24.0).repeat(8)
    sample = Sample(-1)
    for _ in range(32):
        sample.add(tokens.unsqueeze(1).expand(-1, 16).contiguous(), 32)
    kept = sample.rows()[:, 0]
    assert len(kept) == 512
    assert len(kept.unique()) == 24
    assert set(sample.flat().unique().tolist()) == set(range(24))


def test_a_sample_is_the_same_each_time_and_never_more_than_there_is() -> None:
    first, second = Sample(-1), Sample(-1)
    for sample in (first, second):
        for batch in range(4):
            sample.add(torch.arange(40.0).reshape(10, 4) + batch, 4)
    assert torch.equal(first.rows(), second.rows())
    assert len(first.rows()) == 40
    few = Sample(-1)
    few.add(torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)), 200)
    assert len(few.rows()) == 2


def test_a_row_of_zeros_does_not_make_an_error_infinite() -> None:
    exact = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    exact[3] = 0
    found = error_by_row(exact + 0.001, exact)
    assert 0.001 < found < 0.01
    assert error_by_row(torch.ones(4, 8), torch.zeros(4, 8)) == float("inf")
    assert error_by_row(torch.zeros(4, 8), torch.zeros(4, 8)) == 0.0


def test_a_few_rows_of_large_values_hide_nothing() -> None:
    exact = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    exact[0] *= 1e4
    rough = exact.clone()
    rough[1:] *= 1.1
    assert abs(error_by_row(rough, exact) - 0.1) < 0.005


def test_few_large_images_are_kept() -> None:
    for images, pixels, count in ((16, 8, 16), (6, 512, 8), (2, 1536, 1)):
        sample = Sample(1)
        for _ in range(2):
            sample.add(torch.zeros(images, 4, pixels, pixels), 2)
        assert len(sample.rows()) == count
