"""The language loss in parts: its value and gradients are those of all logits at once."""

import pytest
import torch

from raexla.losses import cross_entropy_sum, linear_cross_entropy_sum

IGNORE = -100


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, a table of 37 tokens, labels of which some count."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, length, 8, generator=generator).requires_grad_()
    table = torch.randn(37, 8, generator=generator).requires_grad_()
    labels = torch.randint(0, 37, (3, length), generator=generator)
    labels[:, ::3] = IGNORE
    return hidden, table, labels


@pytest.mark.parametrize("length", [16, 17, 5])
@pytest.mark.parametrize("chunks", [1, 2, 4, 7])
def test_parts_make_the_whole(length, chunks):
    hidden, table, labels = inputs(length)
    expected, count = cross_entropy_sum(hidden @ table.T, labels)
    wanted = torch.autograd.grad(3.0 * expected, [hidden, table])
    found, counted = linear_cross_entropy_sum(hidden, table, labels, chunks)
    got = torch.autograd.grad(3.0 * found, [hidden, table])
    torch.testing.assert_close(found, expected)
    assert counted == count
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_logits_of_all_tokens_never_stand_together(monkeypatch):
    hidden, table, labels = inputs(64)
    seen = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr("raexla.losses.language.F.linear", lambda x, w: seen.append(x.shape[1]) or linear(x, w))
    linear_cross_entropy_sum(hidden, table, labels, 8)
    assert max(seen) == 8
    assert sum(seen) == 63
