"""How near a picture is to another: PSNR and SSIM, one number an image; callers take the mean."""

import numpy as np

_RADIUS, _SIGMA = 5, 1.5  # the 11 x 11 window of Wang et al. 2004
_K1, _K2 = 0.01, 0.03


def _check(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if first.shape != second.shape or first.ndim != 4:
        raise ValueError(f"two batches of images [B, 3, H, W] are compared, got {first.shape} and {second.shape}")
    return first.astype(np.float64), second.astype(np.float64)


def psnr(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, [B], of images [B, 3, H, W] in [0, 1]: 10 log10(1 / MSE); inf if equal."""
    first, second = _check(first, second)
    error = ((first - second) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity, [B], of images [B, 3, H, W] in [0, 1] (Wang et al. 2004, eq. 13).

    Gaussian window 11 x 11 with sigma 1.5, K = (0.01, 0.03), population variances, the mean over channels and over
    the places where the window lies wholly inside the image.

    Raises:
        ValueError: images smaller than the window.
    """
    from scipy.ndimage import correlate1d  # a second to import, and recipes need this module too

    first, second = _check(first, second)
    if min(first.shape[2:]) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM needs images of at least {2 * _RADIUS + 1} pixels a side, got {first.shape[2:]}")
    weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    weights /= weights.sum()

    def blur(x: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(x, weights, axis=2), weights, axis=3)

    mean_a, mean_b = blur(first), blur(second)
    var_a, var_b = blur(first**2) - mean_a**2, blur(second**2) - mean_b**2
    covariance = blur(first * second) - mean_a * mean_b
    c1, c2 = _K1**2, _K2**2
    index = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return index[:, :, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS].mean(axis=(1, 2, 3))
