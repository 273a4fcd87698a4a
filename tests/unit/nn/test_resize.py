"""Resizing by matrices against torch.nn.functional.interpolate, forward and backward."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from raexla.nn.resize import Resize, resize_matrix, resize_tokens

SIZES = [((16, 16), (27, 27)), ((32, 24), (16, 20)), ((37, 41), (14, 15)), ((7, 9), (40, 3)), ((256, 256), (224, 224))]


@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_like_interpolate(size_in: Any, size_out: Any, filter: Any, antialias: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, *size_in, requires_grad=True)
    ours = Resize(size_in, size_out, filter, antialias=antialias)(x)
    theirs = F.interpolate(x, size_out, mode=filter, antialias=antialias, align_corners=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    cotangent = torch.randn_like(theirs)
    ours_grad, theirs_grad = (torch.autograd.grad(y, x, cotangent)[0] for y in (ours, theirs))
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=0, atol=5e-5)


def test_weights_sum_to_one() -> None:
    for filter in ("bilinear", "bicubic"):
        for antialias in (True, False):
            weights = resize_matrix(13, 7, filter, antialias=antialias)
            torch.testing.assert_close(weights.sum(1), torch.ones(7))


def test_tokens_resize_as_pictures_do() -> None:
    picture = torch.rand(2, 5, 4, 6)
    tokens = picture.flatten(2).transpose(1, 2)
    rows, columns = resize_matrix(4, 8), resize_matrix(6, 3)
    expected = Resize((4, 6), (8, 3))(picture).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resize_tokens(tokens, (4, 6), rows, columns), expected)


def test_same_size_is_untouched_and_another_is_refused() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert Resize((8, 8), (8, 8))(x) is x
    with pytest.raises(ValueError, match=r"\(4, 4\), got \(8, 8\)"):
        Resize((4, 4), (8, 8))(x)
