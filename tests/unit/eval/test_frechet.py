"""Moments in any order and split within the stated bound; the Fréchet distance by closed forms and two libraries."""

import threading

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from raexla.eval.frechet import frechet_distance, trace_of_root
from raexla.eval.moments import UNIT, Covariance, Moments


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def split(values: np.ndarray, seed: int, parts: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(values) + 1, parts - 1))
    return np.split(values[rng.permutation(len(values))], cuts)


def tree(parts: list, seed: int):
    """Merged two at a time, in a random tree."""
    rng, parts = np.random.default_rng(seed), list(parts)
    while len(parts) > 1:
        first = parts.pop(int(rng.integers(len(parts))))
        second = parts.pop(int(rng.integers(len(parts))))
        parts.append(first.merge(second))
    return parts[0]


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_moments_are_two_passes_of_numpy_whatever_the_order(offset):
    """Within the bound of the module's docstring, also where the mean is a million deviations away."""
    values = (random(0, 1000, 4, 3) * random(1, 4, 3) + offset).astype(np.float64)
    true_mean = values.astype(np.longdouble).mean(0)
    true_variance = ((values.astype(np.longdouble) - true_mean) ** 2).mean(0)
    m, v = np.abs(values).max(0), true_variance.astype(np.float64)
    for seed in range(5):
        parts = split(values, seed, 37)
        found = tree([Moments.of(part) for part in parts], seed)
        steps = (len(parts) + max(map(len, parts))) * UNIT
        assert found.count == 1000
        assert (np.abs(found.mean - true_mean) <= 3 * steps * m).all()
        assert (np.abs(found.variance - v) <= 2 * steps * (v + 8 * m * np.sqrt(v)) + (6 * steps * m) ** 2).all()
    if offset == 1e6:  # the wrong way, E[x^2] - E[x]^2, is far outside
        naive = (values**2).mean(0) - values.mean(0) ** 2
        assert (np.abs(naive - v) > 2 * steps * (v + 8 * m * np.sqrt(v)) + (6 * steps * m) ** 2).any()


def test_empty_parts_and_channels():
    values = random(2, 50, 6, 3)
    whole = Moments.of(values)
    assert Moments.empty((6, 3)).merge(whole) is whole
    assert whole.merge(Moments.of(values[:0])) is whole
    channels = whole.per_channel()
    assert channels.mean.shape == (1, 3)
    assert channels.count == 300
    np.testing.assert_allclose(channels.mean[0], values.reshape(-1, 3).mean(0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(channels.variance[0], values.reshape(-1, 3).var(0), rtol=1e-13)
    with pytest.raises(ValueError, match="not finite"):
        Moments.of(np.array([[1.0], [np.nan]]))


def test_processes_find_what_one_finds():
    values = random(3, 90, 5) + 100
    parts = [values[:10], values[10:10], values[10:]]
    found: dict[int, Moments] = {}
    add = Lockstep(len(parts))

    def process(index: int) -> None:
        found[index] = Moments.of(parts[index]).over_processes(add)

    threads = [threading.Thread(target=process, args=(index,)) for index in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found.values():
        assert one.count == 90
        np.testing.assert_allclose(one.mean, values.mean(0), rtol=1e-14)
        np.testing.assert_allclose(one.variance, values.var(0), rtol=1e-12)


class Lockstep:
    """Sums what as many threads hand in, as processes would."""

    def __init__(self, count: int) -> None:
        self.parts: list[np.ndarray] = []
        self.total = np.zeros(0)
        self.full, self.taken = threading.Barrier(count, self._sum, timeout=60), threading.Barrier(count, timeout=60)
        self.lock = threading.Lock()

    def _sum(self) -> None:
        self.total, self.parts = np.sum(self.parts, axis=0), []

    def __call__(self, array: np.ndarray) -> np.ndarray:
        with self.lock:
            self.parts.append(array)
        self.full.wait()
        total = self.total.copy()
        self.taken.wait()
        return total


def test_covariances_are_numpys_for_any_split():
    values = random(4, 300, 12) @ random(5, 12, 12) + 1e3
    for seed in range(3):
        found = tree([Covariance.of(part) for part in split(values, seed, 17)], seed)
        np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-13)
        np.testing.assert_allclose(found.covariance, np.cov(values, rowvar=False), rtol=1e-10, atol=1e-10)
        assert (found.covariance == found.covariance.T).all()
    with pytest.raises(ValueError, match="two vectors at least, there are 1"):
        _ = Covariance.of(values[:1]).covariance


def gaussian(mean: np.ndarray, covariance: np.ndarray, count: int = 100) -> Covariance:
    return Covariance(count, np.asarray(mean, np.float64), np.asarray(covariance, np.float64) * (count - 1))


def test_closed_forms():
    """Commuting covariances: sum of (sqrt a - sqrt b)^2; two by two: tr sqrt(M) = sqrt(tr M + 2 sqrt det M)."""
    a, b = np.array([4.0, 9.0, 0.25, 0.0]), np.array([1.0, 16.0, 0.0, 0.0])
    m = np.array([1.0, -2.0, 0.5, 3.0])
    expected = (m**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(gaussian(m, np.diag(a)), gaussian(0 * m, np.diag(b))) == pytest.approx(expected, rel=1e-13)
    one, two = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = one @ two
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    assert trace_of_root(one, two) == pytest.approx(root, rel=1e-13)
    assert trace_of_root(np.zeros((3, 3)), np.eye(3)) == 0


def test_rotations_shifts_and_order_change_nothing():
    first, second = random(6, 80, 10) * np.linspace(0.1, 3, 10), random(7, 60, 10) + 0.3
    turn = np.linalg.qr(random(8, 10, 10))[0]
    plain = frechet_distance(Covariance.of(first), Covariance.of(second))
    turned = frechet_distance(Covariance.of(first @ turn + 7), Covariance.of(second @ turn + 7))
    assert turned == pytest.approx(plain, rel=1e-11)
    assert frechet_distance(Covariance.of(second), Covariance.of(first)) == pytest.approx(plain, rel=1e-12)
    assert frechet_distance(Covariance.of(first * 3), Covariance.of(second * 3)) == pytest.approx(9 * plain, rel=1e-12)


def test_identical_sets_are_at_no_distance():
    for count, width in ((500, 40), (20, 40), (2, 40)):  # of full rank, and with fewer features than they are wide
        features = random(9, count, width) * np.logspace(-6, 3, width) + 50
        one = Covariance.of(features)
        assert frechet_distance(one, Covariance.of(features[::-1])) <= 1e-6 * np.trace(one.covariance)


@pytest.mark.parametrize(("count", "other"), [(15, 25), (15, 400), (400, 15)])
def test_covariances_of_low_rank(count, other):
    """From the features themselves: tr sqrt(C1 C2) is the sum of the singular values of X1 X2', centred and scaled."""
    first, second = random(10, count, 60), random(11, other, 60) * 1.5 + 0.1
    x1, x2 = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (first, second))
    root = np.linalg.svd(x1 @ x2.T, compute_uv=False).sum()
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + (x1**2).sum() + (x2**2).sum() - 2 * root
    assert frechet_distance(Covariance.of(first), Covariance.of(second)) == pytest.approx(expected, rel=1e-10)


def test_torch_fidelity_and_scipy_find_the_same():
    """On the same features to 1e-6: torch-fidelity by eigenvalues of C1 C2, the first FID code by a matrix root."""
    first = np.abs(random(12, 700, 96) @ random(13, 96, 96) * 0.1) + 0.2  # activations after a ReLU, correlated
    second = first + 0.3 * np.abs(random(14, 700, 96))
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (first, second)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    parts = [tree([Covariance.of(part) for part in split(x, 1, 9)], 2) for x in (first, second)]
    ours = frechet_distance(*parts)
    assert ours == pytest.approx(theirs, rel=1e-6)
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = np.trace(scipy.linalg.sqrtm(one @ two)).real
    difference = ((first.mean(0) - second.mean(0)) ** 2).sum()
    assert ours == pytest.approx(difference + np.trace(one) + np.trace(two) - 2 * root, rel=1e-6)
    half = scipy.linalg.sqrtm(one).real
    assert trace_of_root(one, two) == pytest.approx(np.trace(scipy.linalg.sqrtm(half @ two @ half)).real, rel=1e-9)
    wrong = difference + np.trace(one) + np.trace(two) - 2 * np.trace(half @ scipy.linalg.sqrtm(two).real)
    assert ours != pytest.approx(wrong, rel=1e-6)  # sqrt(C1) sqrt(C2) is another matrix than sqrt(C1 C2)


def test_what_is_no_covariance_is_refused():
    with pytest.raises(ValueError, match="is symmetric"):
        trace_of_root(np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2))
    with pytest.raises(ValueError, match="no negative eigenvalue, this matrix has -1"):
        trace_of_root(np.diag([2.0, -1.0]), np.eye(2))
    with pytest.raises(ValueError, match="features of 2 and of 3 numbers"):
        frechet_distance(gaussian(np.zeros(2), np.eye(2)), gaussian(np.zeros(3), np.eye(3)))
