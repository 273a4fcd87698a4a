"""PSNR and SSIM against scikit-image's reference values and by hand."""

import numpy as np
import pytest

from raexla.eval.metrics import psnr, ssim
from raexla.eval.reconstruct import measure


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two smooth images that differ by a known pattern."""
    y, x = np.mgrid[0:32, 0:40] / 8.0
    first = np.stack([0.5 + 0.4 * np.sin(x), 0.5 + 0.4 * np.cos(y), 0.5 + 0.3 * np.sin(x * y / 4)])
    second = np.clip(first + 0.1 * np.cos(3 * x + y), 0, 1)
    return first, second


def test_psnr_by_hand():
    first = np.zeros((2, 3, 16, 16))
    second = first.copy()
    second[1] += 0.1
    assert psnr(first, second)[0] == np.inf
    assert psnr(first, second)[1] == pytest.approx(20.0)


def test_ssim_has_the_reference_implementations_value():
    first, second = pair()
    # skimage 0.26.0: structural_similarity(first, second, channel_axis=0, gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, data_range=1)
    expected = 0.695673500
    assert ssim(first[None], second[None])[0] == pytest.approx(expected, abs=1e-6)


def test_8_bit_pictures_have_the_reference_implementations_values():
    """What `raexla reconstruct` measures: values rounded to 8 bits. skimage 0.26.0, structural_similarity as above and
    peak_signal_noise_ratio(first, second, data_range=1)."""
    first, second = (np.rint(image * 255).astype(np.uint8) for image in pair())
    found = measure(*(np.moveaxis(image, 0, -1)[None] for image in (first, second)))
    assert found["ssim"][0] == pytest.approx(0.6953082096985032, abs=1e-9)
    assert found["psnr"][0] == pytest.approx(23.044019747901167, abs=1e-9)
    rng = np.random.default_rng(7)
    noisy = rng.integers(0, 256, (3, 48, 48), dtype=np.uint8) / 255.0
    other = np.rint(np.clip(noisy * 0.9 + 0.05 + rng.normal(0, 0.03, noisy.shape), 0, 1) * 255) / 255
    assert ssim(noisy[None], other[None])[0] == pytest.approx(0.9879871224447251, abs=1e-9)
    assert psnr(noisy[None], other[None])[0] == pytest.approx(27.632512787101533, abs=1e-9)


def test_ssim_by_hand():
    flat = np.full((1, 3, 16, 16), 0.5)
    assert ssim(flat, flat)[0] == pytest.approx(1.0)
    # no variance: (2 a b + c1) / (a^2 + b^2 + c1)
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.25 + 0.49 + 1e-4)
    assert ssim(flat, np.full_like(flat, 0.7))[0] == pytest.approx(expected)


def test_refusals():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(np.zeros((1, 3, 8, 8)), np.zeros((1, 3, 8, 8)))
    with pytest.raises(ValueError, match="two batches of images"):
        psnr(np.zeros((3, 16, 16)), np.zeros((3, 16, 16)))
