"""Fixed positions and rotations against values of the released models."""

import pytest
import torch

from raexla.nn.positions import sincos_2d
from raexla.nn.rope import Rope2d, apply_rope, rope_2d

SIN_1 = 0.841471


def test_positions_have_the_released_values() -> None:
    table = sincos_2d((16, 16), 2048)
    assert table.shape == (256, 2048)
    assert table.dtype == torch.float32
    assert table[1, 0].item() == pytest.approx(SIN_1, abs=1e-6)  # column 1
    assert table[16, 1024].item() == pytest.approx(SIN_1, abs=1e-6)  # row 1
    assert table[16, 0].item() == table[1, 1024].item() == 0
    assert table.double().sum().item() == pytest.approx(239454.8196, abs=1e-3)


def test_positions_in_the_other_order_swap_the_halves() -> None:
    ours, other = sincos_2d((3, 5), 32), sincos_2d((3, 5), 32, "row_first")
    assert torch.equal(ours, torch.cat([other[:, 16:], other[:, :16]], dim=1))
    assert not torch.equal(ours, other)


def test_rotations_have_the_released_values() -> None:
    cos, sin = rope_2d((16, 16), 64)
    assert cos.shape == sin.shape == (256, 64)
    assert sin[16, 0].item() == pytest.approx(SIN_1, abs=1e-6)  # row 1
    assert sin[1, 32].item() == pytest.approx(SIN_1, abs=1e-6)  # column 1
    assert sin[1, 0].item() == sin[16, 32].item() == 0
    assert cos.double().sum().item() == pytest.approx(11910.456, abs=1e-2)
    assert sin.double().sum().item() == pytest.approx(2756.331, abs=1e-2)


def test_rotated_products_depend_on_the_offset_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)
    cos, sin = rope_2d((6, 6), 16)
    qs, ks = (apply_rope(x.expand(1, 1, 36, 16), cos, sin)[0, 0] for x in (q, k))
    scores = (qs @ ks.T).reshape(6, 6, 6, 6)
    torch.testing.assert_close(scores[1, 2, 3, 1], scores[2, 4, 4, 3])
    assert (scores[1, 2, 3, 1] - scores[1, 2, 1, 3]).abs() > 1e-3  # rows and columns turn differently


def test_rotation_keeps_dtype_and_length() -> None:
    x = torch.randn(2, 3, 16, 8)
    rope = Rope2d((4, 4), 8)
    torch.testing.assert_close(rope(x).norm(dim=-1), x.norm(dim=-1))
    assert rope(x.bfloat16()).dtype == torch.bfloat16
    assert not rope.state_dict()


@pytest.mark.parametrize(("function", "size"), [(sincos_2d, 30), (rope_2d, 10)])
def test_odd_sizes_are_refused(function: object, size: int) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=f"divisible by 4, got {size}"):
        function((4, 4), size)
