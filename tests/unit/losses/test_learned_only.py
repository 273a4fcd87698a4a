"""Logits for learned tokens alone: value and gradients are those of all logits."""

import pytest
import torch

from raexla.losses import chunks_of, cross_entropy_sum, linear_cross_entropy_sum
from raexla.losses.language import learned_only
from raexla.runtime import XlaRecipe, open_runtime
from tests.harness import in_process

IGNORE = -100
LEARNED = [[3, 4, 5, 11], [1], [], [0, 7, 15], [15]]
"""Places of each row's learned tokens, 16 tokens a row; the first place of all is never predicted."""


def inputs(device: str = "cpu") -> list[torch.Tensor]:
    """Hidden states [5, 16, 8], a table of 37 tokens, labels."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 16, 8, generator=generator)
    table = torch.randn(37, 8, generator=generator)
    labels = torch.full((5, 16), IGNORE, dtype=torch.int32)
    for row, places in enumerate(LEARNED):
        labels[row, places] = torch.randint(0, 37, (len(places),), generator=generator, dtype=torch.int32)
    return [hidden.to(device).requires_grad_(), table.to(device).requires_grad_(), labels.to(device)]


def values(given: list[torch.Tensor], chunks: int = 1, most: int | None = None) -> list[torch.Tensor]:
    """Sum, count and gradients."""
    hidden, table, labels = given
    found, count = linear_cross_entropy_sum(hidden, table, labels, chunks, most)
    return [found.detach(), count, *torch.autograd.grad(3.0 * found, [hidden, table])]


@pytest.mark.parametrize("most", [4, 5, 15, 16, 99])
@pytest.mark.parametrize("chunks", [1, 3])
def test_learned_tokens_alone_give_the_whole_loss(most: int, chunks: int) -> None:
    hidden, table, labels = inputs()
    wanted = cross_entropy_sum(hidden @ table.T, labels)
    wanted = [*wanted, *torch.autograd.grad(3.0 * wanted[0], [hidden, table])]
    for found, expected in zip(values(inputs(), chunks, most), wanted, strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-6)


def test_the_kept_states_are_those_that_stand_before_a_learned_token() -> None:
    hidden, _, labels = inputs()
    kept, targets = learned_only(hidden, labels, 4)
    for row, places in enumerate(LEARNED):
        wanted = [place for place in places if place]
        assert targets[row].tolist() == [int(labels[row, place]) for place in wanted] + [IGNORE] * (4 - len(wanted))
        for number, place in enumerate(wanted):
            assert torch.equal(kept[row, number], hidden[row, place - 1])


def test_the_token_itself_in_place_of_the_one_before_it_is_another_loss() -> None:
    hidden, table, labels = inputs()
    moved = torch.cat([hidden[:, 1:], hidden[:, :1]], dim=1)
    assert not torch.allclose(values([hidden, table, labels], 1, 4)[0], values([moved, table, labels], 1, 4)[0])


def test_no_other_logits_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr("raexla.losses.language.F.linear", lambda x, w: seen.append(x.shape[1]) or linear(x, w))
    hidden, table, labels = inputs()
    linear_cross_entropy_sum(hidden, table, labels, 1, 4)
    assert seen == [4]


def test_parts_are_no_longer_than_those_of_the_whole_sequence() -> None:
    assert chunks_of(8, 512, 16) == 1  # of 64 tokens at most
    assert chunks_of(8, 512, 65) == 2
    assert chunks_of(8, 512, 512) == 8


def test_on_devices_too() -> None:
    """Rows split over two: the same numbers, and nothing falls back to the CPU."""
    assert in_process(on_devices) == []


def on_devices() -> list[str]:
    """What differs from the whole loss on the CPU, and the fallbacks."""
    runtime = open_runtime(XlaRecipe(type="xla", platform="cpu", devices=2))
    wanted = values(inputs())
    hidden, table, labels = (tensor.detach() for tensor in inputs())
    rows = torch.cat([hidden, hidden[:1]]), torch.cat([labels, labels[:1] * 0 + IGNORE])
    placed = runtime.put({"hidden": rows[0].numpy(), "labels": rows[1].numpy()}, 1)
    given = [placed["hidden"][0].requires_grad_(), runtime.replicate(table.numpy()).requires_grad_()]
    wrong = []
    for chunks, most in ((1, 4), (3, 12)):
        for place, value in enumerate(values([*given, placed["labels"][0]], chunks, most)):
            found = torch.from_numpy(runtime.to_host(value))
            found = found[:5] if place == 2 else found
            if not torch.allclose(found, wanted[place], rtol=1e-6, atol=1e-6):
                wrong.append(f"{chunks} parts, {most} tokens, value {place}: {(found - wanted[place]).abs().max()}")
    return wrong + list(runtime.counters().fallbacks)
