"""Threefry against its published known answers; draws against their distributions and invariances."""

import numpy as np
import pytest
import torch

from raexla.runtime.random import Draws, threefry


def _word(value: int) -> torch.Tensor:
    return torch.tensor(np.array(value, dtype=np.uint32).astype(np.int32))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's kat_vectors, threefry2x32 20
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]) -> None:
    out = threefry((_word(key[0]), _word(key[1])), (_word(counter[0]), _word(counter[1])))
    assert tuple(int(word) & 0xFFFFFFFF for word in out) == expected


def test_rows_are_independent_of_the_batch_they_stand_in() -> None:
    whole = Draws(7, 3, torch.arange(8)).normal("noise", (5, 3))
    part = Draws(7, 3, torch.tensor([6, 2])).normal("noise", (5, 3))
    assert torch.equal(part, whole[[6, 2]])


def test_seed_step_purpose_and_row_all_matter() -> None:
    rows = torch.arange(4)
    base = Draws(7, 3, rows).uniform("time", (64,))
    others = [Draws(8, 3, rows), Draws(7 + (1 << 40), 3, rows), Draws(7, 4, rows), Draws(7, 3, rows + 1)]
    assert all(not torch.equal(base, other.uniform("time", (64,))) for other in others)
    assert not torch.equal(base, Draws(7, 3, rows).uniform("noise", (64,)))


def test_distributions() -> None:
    draws = Draws(0, 0, torch.arange(64))
    uniform, normal = draws.uniform("u", (4096,)).double(), draws.normal("n", (4096,)).double()
    n = uniform.numel()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(normal.mean()) < 5 / n**0.5
    assert abs(normal.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((normal**4).mean() - 3) < 5 * (96 / n) ** 0.5
    halves = normal.reshape(64, 2, 2048)
    assert abs((halves[:, 0] * halves[:, 1]).mean()) < 5 / (n / 2) ** 0.5


def test_scalar_and_odd_shapes() -> None:
    draws = Draws(0, 0, torch.arange(3))
    assert draws.uniform("u").shape == (3,)
    assert draws.normal("n", (3, 5, 1)).shape == (3, 3, 5, 1)
