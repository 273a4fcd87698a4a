"""The Fréchet distance of two Gaussians, the number behind FID (Heusel et al. 2017, eq. 6).

    d^2 = |m1 - m2|^2 + tr C1 + tr C2 - 2 tr sqrt(C1 C2)

C1 C2 isn't symmetric, and a general root of it (scipy's `sqrtm`) loses digits, or turns complex, where there are fewer
features than they are wide. But C1 C2 has the eigenvalues of C1^1/2 C2 C1^1/2, which is symmetric and has no negative
ones. With C1 = R1 R1', C2 = R2 R2' by symmetric eigen-decomposition, their roots are the singular values of R1' R2:
taken so, nothing has the square of the covariances' condition, and null spaces cost neither digits nor time.
"""

import numpy as np

from raexla.eval.moments import Covariance

_ROUNDING = 1e-8  # of the largest entry or eigenvalue: what a covariance may miss of symmetry and of positivity


def trace_of_root(first: np.ndarray, second: np.ndarray) -> float:
    """tr sqrt(C1 C2) of two covariances [D, D], float64.

    Raises:
        ValueError: a matrix that is not symmetric and positive up to rounding.
    """
    product = _factor(first).T @ _factor(second)
    return float(np.linalg.svd(product, compute_uv=False).sum()) if product.size else 0.0


def frechet_distance(first: Covariance, second: Covariance) -> float:
    """The squared Fréchet distance of two sets of features; 0 or more.

    Raises:
        ValueError: other widths, or a set of fewer than two.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {len(first.mean)} and of {len(second.mean)} numbers can't be compared")
    one, two = first.covariance, second.covariance
    difference = first.mean - second.mean
    traces = np.trace(one) + np.trace(two)
    return float(max(0.0, difference @ difference + traces - 2 * trace_of_root(one, two)))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """R [D, rank] with C = R R'."""
    matrix = np.asarray(covariance, np.float64)
    if np.abs(matrix - matrix.T).max() > _ROUNDING * np.abs(matrix).max():
        raise ValueError("a covariance is symmetric, this matrix is not")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] < -_ROUNDING * abs(values[-1]):
        raise ValueError(f"a covariance has no negative eigenvalue, this matrix has {values[0]:.3g}")
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])
