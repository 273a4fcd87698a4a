"""Patch orders against convolution and MAE's un-patchify."""

import pytest
import torch
from torch.nn import functional as F

from raexla.nn.patches import PatchEmbed, group_tokens, patchify, ungroup_tokens, unpatchify


@pytest.mark.parametrize("patch", [1, 2])
def test_patch_embedding_is_the_strided_convolution(patch: int) -> None:
    torch.manual_seed(0)
    grid = (4, 6)
    embed = PatchEmbed(grid, patch, 3, 5)
    picture = torch.randn(2, 3, *grid)
    weight = embed.proj.weight.reshape(5, 3, patch, patch)
    expected = F.conv2d(picture, weight, embed.proj.bias, stride=patch).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(picture.flatten(2).transpose(1, 2)), expected)


def test_ungrouping_is_maes_unpatchify() -> None:
    """nhwpqc -> nchpwq, then row-major tokens."""
    x = torch.randn(2, 6, 2 * 2 * 3)
    picture = torch.einsum("nhwpqc->nchpwq", x.reshape(2, 2, 3, 2, 2, 3)).reshape(2, 3, 4, 6)
    assert torch.equal(ungroup_tokens(x, (4, 6), 2), picture.flatten(2).transpose(1, 2))
    assert torch.equal(unpatchify(x, (2, 3), 2), picture)


def test_patchify_and_back() -> None:
    picture = torch.randn(2, 3, 8, 12)
    patches = patchify(picture, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[0, 1, :3], picture[0, :, 0, 4])  # channel last inside a patch
    assert torch.equal(unpatchify(patches, (2, 3), 4), picture)


def test_the_two_orders_differ() -> None:
    x = torch.arange(24.0).reshape(1, 8, 3)
    assert group_tokens(x, (2, 4), 2)[0, 0].tolist() == [0, 3, 12, 15, 1, 4, 13, 16, 2, 5, 14, 17]
    assert not torch.equal(ungroup_tokens(group_tokens(x, (2, 4), 2), (2, 4), 2), x)


def test_a_grid_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="5 x 4 grid does not divide into patches of 2 x 2"):
        PatchEmbed((5, 4), 2, 3, 8)
