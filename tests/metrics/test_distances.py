import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from diffwave_sde.metrics import frechet, kernel, manifold, shrunk


def normal(n, mean, root, seed=0):
    g = torch.Generator().manual_seed(seed)
    return mean + torch.randn(n, len(mean), generator=g, dtype=torch.float64) @ root.mT


def exactly(n, mean, root, seed=0):
    """A sample whose own mean and covariance are exactly these."""
    x = normal(n, torch.zeros(len(mean), dtype=torch.float64), torch.eye(len(mean), dtype=torch.float64), seed)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.mT.cov().view(len(mean), -1))).mT
    return mean + x @ root.mT


def law(size, seed):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(k, generator=g, dtype=torch.float64) for k in ((size,), (size, size)))


def test_frechet_is_dowson_and_landau_s_formula():
    (m, A), (v, B) = law(5, 0), law(5, 1)
    a, b = exactly(50, m, A, 2), exactly(70, v, B, 3)
    S, T = (A @ A.mT).numpy(), (B @ B.mT).numpy()
    expected = float((m - v).square().sum()) + np.trace(S) + np.trace(T) - 2 * np.trace(sqrtm(S @ T)).real
    assert frechet(a, b, shrink=False) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_numbers_is_the_difference_of_means_and_of_deviations():
    one = torch.ones(1, dtype=torch.float64)
    a, b = exactly(40, 2 * one, 3 * one[None]), exactly(40, -one, 0.5 * one[None], 1)
    assert frechet(a, b, shrink=False) == pytest.approx(9 + 2.5**2)


@pytest.mark.parametrize("shrink", [True, False])
def test_frechet_is_zero_for_the_same_and_the_same_both_ways(shrink):
    m, A = law(20, 0)
    a, b = normal(12, m, A), normal(12, m, A, 1)  # fewer than dimensions
    assert frechet(a, a, shrink) == pytest.approx(0, abs=1e-5)
    assert frechet(a, b, shrink) == pytest.approx(frechet(b, a, shrink), rel=1e-6)
    assert frechet(a, b, shrink) > 1


def test_shrinking_brings_small_sets_nearer_to_the_truth():
    # Two draws of one isotropic law in 100 dimensions: the truth is 0.
    zero, one = torch.zeros(100, dtype=torch.float64), torch.eye(100, dtype=torch.float64)
    a, b = normal(30, zero, one), normal(30, zero, one, 1)
    means = float((a.mean(0) - b.mean(0)).square().sum())
    assert frechet(a, b) - means < 0.1 * (frechet(a, b, shrink=False) - means)


def test_the_share_of_shrinking_is_that_of_chen():
    m, A = law(6, 0)
    x = normal(9, m, A)
    n, p = x.shape
    S = np.cov(x.numpy().T, bias=True)
    top = (1 - 2 / p) * np.trace(S @ S) + np.trace(S) ** 2
    full = min(1.0, top / ((n + 1 - 2 / p) * (np.trace(S @ S) - np.trace(S) ** 2 / p)))  # their eq. 23
    expected = (1 - full) * S + full * np.trace(S) / p * np.eye(p)
    torch.testing.assert_close(shrunk(x)[1], torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_the_kernel_distance_is_unbiased_where_the_laws_are_one():
    zero, one = torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    values = torch.tensor([kernel(normal(20, zero, one, 2 * i), normal(20, zero, one, 2 * i + 1)) for i in range(400)])
    error = values.std() / 20
    assert abs(float(values.mean())) < 4 * float(error)
    assert float(values.min()) < 0
    assert kernel(normal(200, zero, one), normal(200, zero + 0.5, one, 1)) > 3 * float(values.std())


def test_the_kernel_distance_is_written_out():
    given = torch.tensor([[0.0], [2.0], [1.0], [3.0]]).double()
    a, b = ((given - 1.5) / (5 / 3) ** 0.5).split(2)  # centred and scaled by both together

    def k(x, y):
        return (float(x) * float(y) + 1) ** 3

    expected = k(a[0], a[1]) + k(b[0], b[1]) - 2 * sum(k(x, y) for x in a for y in b) / 4
    assert kernel(*given.split(2)) == pytest.approx(expected)


def test_neighbourhoods_of_points_on_a_line():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    generated = torch.tensor([[0.1], [1.1], [50.0], [51.0]])
    # k = 1: real neighbourhoods reach 1; generated ones reach 1 and 1.
    found = manifold(real, generated, k=1)
    assert found.precision == 0.5
    assert found.coverage == pytest.approx(3 / 6)
    assert found.density == pytest.approx((2 + 2) / 4)
    assert found.recall == pytest.approx(3 / 6)


def test_a_set_is_its_own_manifold():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    found = manifold(x, x)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density >= 1


@pytest.mark.parametrize("distance", [frechet, kernel, manifold])
def test_what_cannot_be_compared_is_refused(distance):
    with pytest.raises(ValueError, match="at least"):
        distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="3 and of 2 numbers"):
        distance(torch.zeros(4, 3), torch.zeros(4, 2))
