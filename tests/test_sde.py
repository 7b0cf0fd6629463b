import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch.utils._python_dispatch import TorchDispatchMode
from truth import DEFAULTS, PROCESSES, times_of

from diffwave_sde.sde import CLD, EDM, SDE, VE, VP, Kernel, SubVP, apply, cholesky, lift, triangular


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def covariance(kernel: Kernel) -> torch.Tensor:
    return kernel.L @ kernel.L.mT


def close(a, b, rtol=1e-9, atol=0.0):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def normalised(Q: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Q in units of the standard deviations of `like`, so that every entry counts."""
    d = like.diagonal(dim1=-2, dim2=-1).sqrt()
    return Q / (d[..., :, None] * d[..., None, :])


# -------------------------------------------------------------------------------------- laws of every process


def test_transitions_compose(sde):
    r, s, t = tensor(0.0, 0.0, 1e-4, 0.1, 0.3), tensor(1e-4, 0.2, 1e-3, 0.15, 0.9), tensor(1e-3, 0.3, 0.5, 0.4, 1.0)
    first, Q1 = sde.transition(r, s)
    second, Q2 = sde.transition(s, t)
    whole, Q = sde.transition(r, t)
    close(second @ first, whole, 1e-11, 1e-13)
    close(normalised(second @ Q1 @ second.mT + Q2, Q), normalised(Q, Q), 0, 1e-10)


def test_no_time_changes_nothing(sde):
    t = tensor(0.0, 0.2, 1.0)
    phi, Q = sde.transition(t, t)
    close(phi, torch.eye(sde.blocks).double().expand_as(phi), 1e-14, 1e-14)
    close(Q, torch.zeros_like(Q), 0, 1e-14)


def test_mean_and_covariance_solve_their_own_equations(sde):
    # dM/dt = F M and dΣ/dt = F Σ + Σ Fᵀ + g gᵀ, by five-point differences.
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    h = 1e-4
    kernels = {k: sde.kernel(t + k * h) for k in (-2, -1, 1, 2)}

    def slope(f):
        return (8 * (f(kernels[1]) - f(kernels[-1])) - (f(kernels[2]) - f(kernels[-2]))) / (12 * h)

    F, g, M, cov = sde.drift(t), sde.diffusion(t), sde.kernel(t).M, covariance(sde.kernel(t))
    close(slope(lambda k: k.M), (F @ M[..., None]).squeeze(-1), 1e-8, 1e-9)
    expected = F @ cov + cov @ F.mT + g[:, :, None] * g[:, None, :]
    close(normalised(slope(covariance), cov), normalised(expected, cov), 1e-8, 1e-8)


def test_noise_enters_the_last_block_only(sde):
    g = sde.diffusion(times_of(sde))
    assert (g[:, :-1] == 0).all()
    assert (g[:, -1] > 0).all()


def test_drift_and_diffusion_are_finite_at_time_zero(sde):
    assert sde.drift(tensor(0.0)).isfinite().all()
    assert sde.diffusion(tensor(0.0)).isfinite().all()
    close(sde.diffusion(tensor(0.0)), sde.diffusion(tensor(1e-12)), 1e-3, 1e-3)


def test_covariance_is_that_of_the_start_carried_on_and_what_was_added(sde):
    t = times_of(sde)
    phi, Q = sde.transition(torch.zeros_like(t), t)
    cov = phi @ sde.cov0(t) @ phi.mT + Q
    close(normalised(covariance(sde.kernel(t)), cov), normalised(cov, cov), 0, 1e-12)
    close(sde.kernel(t).M, phi[..., 0], 0, 0)


def test_the_clean_waveform_is_what_time_zero_holds(sde):
    kernel = sde.kernel(tensor(0.0))
    close(kernel.M, torch.eye(sde.blocks).double()[:1], 0, 0)
    close(covariance(kernel), sde.cov0(tensor(0.0)), 1e-14, 0)


def test_snr_strictly_falls(sde):
    t = torch.cat((torch.logspace(-5, -2, 50), torch.linspace(0.011, 1, 200))).double()
    t = t[t >= sde.t_min]
    assert (sde.kernel(t).snr.diff() < 0).all()


def test_time_inverts_the_snr(sde):
    t = torch.cat((times_of(sde), torch.rand(200, generator=torch.Generator().manual_seed(0)).double()))
    t = t.clamp(sde.t_min, sde.t_max)
    snr = sde.kernel(t).snr
    # In underdamped dynamics the SNR pauses as it falls, at a triple root: slower to find, and ill-defined in time.
    pauses = sde.blocks == 2 and sde.friction < 1
    close(sde.kernel(sde.time(snr)).snr, snr, 1e-4 if pauses else 1e-12)
    if not pauses:
        close(sde.time(snr), t, 1e-11)


def test_time_keeps_to_the_ends(sde):
    ends = tensor(sde.t_min, sde.t_max, sde.t_max)
    close(sde.time(tensor(1e30, 1e-30, 0.0)), ends, 1e-12)
    assert (sde.time(tensor(1e30, 1e-30)) - ends[:2]).sign().tolist() in ([0, 0], [1, 0])


def test_kernel_samples_have_its_law(sde):
    # As a claim about the whole chain of broadcasting: u = M x + L ε, block by block.
    g = torch.Generator().manual_seed(0)
    x, eps = torch.randn(3, 2, 5, generator=g).double(), torch.randn(3, sde.blocks, 2, 5, generator=g).double()
    kernel = sde.kernel(tensor(0.1, 0.4, 0.8))
    by_hand = torch.einsum("bs,bct->bsct", kernel.M, x) + torch.einsum("bsr,brct->bsct", kernel.L, eps)
    close(kernel.sample(x, eps), by_hand, 1e-13, 1e-13)
    close(apply(kernel.inverse, kernel.sample(x, eps) - lift(kernel.M, x)), eps, 1e-8, 1e-8)


def test_precision_matched_filter_and_snr_are_what_they_say(sde):
    kernel = sde.kernel(times_of(sde))
    cov = covariance(kernel)
    close(kernel.inverse @ kernel.L, torch.eye(sde.blocks).double().expand_as(cov), 1e-12, 1e-12)
    scale = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    eye = torch.eye(sde.blocks).double().expand_as(cov)
    close((kernel.precision @ cov) * scale[:, None, :] / scale[:, :, None] ** 1, eye, 1e-7, 1e-7)
    close(kernel.matched, (kernel.precision @ kernel.M[..., None]).squeeze(-1), 1e-9, 1e-9)
    close(kernel.snr, (kernel.matched * kernel.M).sum(-1), 1e-9)


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_sound_is_left_at_the_end(name):
    # The prior leaves the mean M x out: it must be far below the noise, for any x in [-1, 1].
    assert PROCESSES[name].kernel(tensor(PROCESSES[name].t_max)).snr.sqrt() < 0.03


def test_prior_draws_from_the_kernel_at_t_max(sde):
    u = sde.prior((400, 1, 500), torch.Generator().manual_seed(0)).double()
    assert u.shape == (400, sde.blocks, 1, 500)
    flat = u.transpose(0, 1).flatten(1)
    expected = covariance(sde.kernel(tensor(sde.t_max)))[0]
    measured = flat @ flat.mT / flat.shape[1]
    close(normalised(measured, expected), normalised(expected, expected), 0, 5 * math.sqrt(2 / flat.shape[1]))
    assert (flat.mean(1).abs() < 5 * expected.diagonal().sqrt() / math.sqrt(flat.shape[1])).all()


def test_prior_log_prob_is_that_of_torch_distributions(sde):
    u = sde.prior((4, 1, 30), torch.Generator().manual_seed(1)).double()
    expected = covariance(sde.kernel(tensor(sde.t_max)))[0]
    normal = torch.distributions.MultivariateNormal(torch.zeros(sde.blocks).double(), expected)
    close(sde.prior_log_prob(u), normal.log_prob(u.movedim(1, -1)).sum((1, 2)), 1e-10)
    close(sde.prior_log_prob(u.float()), sde.prior_log_prob(u), 1e-5)


def test_a_simulated_path_has_the_law_of_the_kernel(sde):
    # Euler and Maruyama from x at t = 0, in 250 steps: the law holds to O(dt) and the sampling error.
    g = torch.Generator().manual_seed(0)
    n, x, steps, end = 10_000, 0.7, 250, 0.15
    u = sde.cov0(tensor(0.0))[0].sqrt() @ torch.randn(sde.blocks, n, generator=g, dtype=torch.float64)
    u[0] += x
    dt = end / steps
    t = torch.arange(steps, dtype=torch.float64) * dt + dt / 2
    for F, noise in zip(sde.drift(t), sde.diffusion(t), strict=True):
        w = torch.randn(n, generator=g, dtype=torch.float64)
        u = u + dt * (F @ u) + math.sqrt(dt) * noise[:, None] * w
    kernel = sde.kernel(tensor(end))
    expected = covariance(kernel)[0]
    centred = u - x * kernel.M[0][:, None]
    close(normalised(centred @ centred.mT / n, expected), normalised(expected, expected), 0, 0.07)
    assert (centred.mean(1).abs() < 0.04 * expected.diagonal().sqrt()).all()


@pytest.mark.parametrize("name", DEFAULTS)
def test_float32_use_of_the_kernel_keeps_three_digits(name):
    sde = PROCESSES[name]
    g = torch.Generator().manual_seed(0)
    x, eps = torch.rand(4, 1, 500, generator=g) * 2 - 1, torch.randn(4, sde.blocks, 1, 500, generator=g)
    for t in (sde.t_min, 2 * sde.t_min, 0.5, 1.0):
        kernel = sde.kernel(torch.full((4,), t, dtype=torch.float64))
        u = kernel.sample(x, eps)
        assert u.dtype == torch.float32
        # The noise and the score as float32 recovers them from a float32 state.
        for matrix, exact in (
            (kernel.inverse, eps.double()),
            (kernel.precision, apply(kernel.inverse.mT, eps.double())),
        ):
            got = apply(matrix, u - lift(kernel.M, x)).double()
            error = (got - exact).square().mean((0, 2, 3)).sqrt() / exact.square().mean((0, 2, 3)).sqrt()
            assert (error < 1e-3).all(), (t, error)


def test_times_in_float32_will_do(sde):
    t = times_of(sde)
    close(sde.kernel(t.float()).L, sde.kernel(t.float().double()).L, 0, 0)
    assert sde.kernel(t.float()).L.dtype == torch.float64


class NoCopies(TorchDispatchMode):
    """Refuses whatever makes the host wait for a device: constants copied to it, values read from it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.__name__.split(".")[0] in ("lift_fresh", "_local_scalar_dense") or (
            function.__name__.startswith(("_to_copy", "copy_"))
            and len({a.device.type for a in args if isinstance(a, torch.Tensor)} | {self._device(kwargs)}) > 1
        ):
            raise AssertionError(f"{function.__name__} waits for the device")
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _device(kwargs) -> str:
        return torch.device((kwargs or {}).get("device") or "meta").type


def test_kernels_never_wait_for_the_device(sde):
    t = torch.empty(3, device="meta")
    sde.kernel(t)  # the nodes of a quadrature are copied once in a process's life
    with NoCopies():
        kernel = sde.kernel(t)
        sde.time(kernel.snr)
        assert kernel.precision.shape == (3, sde.blocks, sde.blocks)


@pytest.mark.parametrize("name", ["VP", "CLD"])
def test_kernels_work_in_compiled_code(name):
    sde = PROCESSES[name]

    def f(x, eps, t):
        kernel = sde.kernel(t)
        return kernel.sample(x, eps), kernel.matched

    g = torch.Generator().manual_seed(0)
    args = torch.randn(2, 1, 8, generator=g), torch.randn(2, sde.blocks, 1, 8, generator=g), tensor(0.2, 0.6)
    for a, b in zip(torch.compile(f, backend="aot_eager")(*args), f(*args), strict=True):
        close(a, b, 1e-5, 1e-6)


# -------------------------------------------------------------------------------------- factors


@pytest.mark.parametrize("blocks", [1, 2])
def test_factors_are_lower_and_reproduce_the_covariance(blocks):
    R = torch.randn(50, blocks, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for L in (triangular(R), cholesky(R @ R.mT)):
        close(L @ L.mT, R @ R.mT, 1e-10, 1e-12)
        close(L, torch.linalg.cholesky(R @ R.mT), 1e-8, 1e-10)


def test_a_nearly_singular_factor_keeps_its_digits():
    # Rows that differ by 1e-9: the determinant of the covariance is lost in float64, that of the factor is not.
    R = tensor([1.0, 2.0, 3.0], [1.0, 2.0, 3.0 + 1e-9])
    expected = 1e-9 * math.sqrt(5) / math.sqrt(14)
    assert float(triangular(R)[1, 1]) == pytest.approx(expected, rel=1e-6)


def test_more_than_two_blocks_are_refused():
    with pytest.raises(ValueError, match="3 blocks"):
        triangular(torch.randn(3, 4))


# -------------------------------------------------------------------------------------- textbook closed forms


def test_ve_is_song_equation_31():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    kernel = VE(0.01, 50.0).kernel(t)
    close(kernel.M[:, 0], torch.ones_like(t), 0, 0)
    close(kernel.L[:, 0, 0], 0.01 * (50.0 / 0.01) ** t, 1e-12)
    # Eq. 30: g = σ_min (σ_max/σ_min)ᵗ √(2 log(σ_max/σ_min))
    close(VE(0.01, 50.0).diffusion(t)[:, 0], 0.01 * 5000**t * math.sqrt(2 * math.log(5000)), 1e-12)


def test_edm_has_sigma_proportional_to_time():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    close(EDM(0.002, 80.0).kernel(t).L[:, 0, 0], 80 * t, 1e-14)
    close(EDM(0.002, 80.0).diffusion(t)[:, 0], (2 * 80**2 * t).sqrt(), 1e-12, 1e-90)
    assert EDM(0.002, 80.0).t_min * 80 == pytest.approx(0.002)


@pytest.mark.parametrize("cls", [VP, SubVP])
def test_vp_and_subvp_are_song_equation_29(cls):
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    B = 0.1 * t + 0.5 * 19.9 * t**2
    sde, beta = cls(0.1, 20.0), 0.1 + 19.9 * t
    close(sde.kernel(t).M[:, 0], (-0.5 * B).exp(), 1e-12)
    variance = 1 - (-B).exp() if cls is VP else (1 - (-B).exp()) ** 2
    close(sde.kernel(t).L[:, 0, 0] ** 2, variance, 1e-12)
    close(sde.drift(t)[:, 0, 0], -0.5 * beta, 1e-12)
    close(sde.diffusion(t)[:, 0] ** 2, beta * (1 if cls is VP else 1 - (-2 * B).exp()), 1e-11)


def dockhorn(b: torch.Tensor, mass: float, gamma: float, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Critical damping, as a repeated root: with Γ = 2√M, Φ = e^(-kb) [[1 + kb, b/M], [-b, 1 - kb]], k = 1/√M.

    Published in Dockhorn et al. 2022, appendix B.1. Q by integrating 2Γ Φ e₂ e₂ᵀ Φᵀ term by term:
    ∫ τⁿ e^(-2kτ) from 0 to b is elementary.
    """
    k, e = 1 / math.sqrt(mass), (-b / math.sqrt(mass)).exp()
    phi = torch.stack((e * (1 + k * b), e * b / mass, -e * b, e * (1 - k * b)), -1).unflatten(-1, (2, 2))
    a = 2 * k
    I0 = (1 - (-a * b).exp()) / a
    I1 = (1 - (-a * b).exp() * (1 + a * b)) / a**2
    I2 = (2 - (-a * b).exp() * (2 + 2 * a * b + (a * b) ** 2)) / a**3
    d = 4 / k  # 2Γ = 4√M
    xx, xv, vv = d * I2 / mass**2, d * (I1 - k * I2) / mass, d * (I0 - 2 * k * I1 + k**2 * I2)
    Q = torch.stack((xx, xv, xv, vv), -1).unflatten(-1, (2, 2))
    return phi, phi @ torch.diag(tensor(epsilon, gamma * mass)) @ phi.mT + Q


@pytest.mark.parametrize("mass", [0.25, 1.0, 0.04])
def test_critically_damped_langevin_is_the_published_closed_form(mass):
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    phi, cov = dockhorn(4 * t, mass, 0.04, 1e-12)
    kernel = CLD(mass=mass).kernel(t)
    close(kernel.M, phi[..., 0], 1e-12, 1e-15)
    close(normalised(covariance(kernel), cov), normalised(cov, cov), 0, 1e-12)


# A ladder of damping, from Γ = 0.1 Γ_critical to ten times it, with the critical one approached from both sides.
FRICTIONS = [0.1, 0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 1.5, 10.0]


@pytest.mark.parametrize("friction", FRICTIONS)
@pytest.mark.parametrize(("beta_min", "beta_max"), [(4.0, 4.0), (0.5, 20.0)])
def test_langevin_agrees_with_van_loan(friction, beta_min, beta_max):
    # Van Loan 1978: the exponential of [[-A, G Gᵀ], [0, Aᵀ]] b holds Φ and Q. It is well conditioned for short b alone,
    # from where Q(2b) = Φ Q Φᵀ + Q leads on, a sum of positive terms. Entries in units of the standard deviations.
    sde = CLD(friction=friction, beta_min=beta_min, beta_max=beta_max)
    A = np.array([[0, 4.0], [-1.0, -4.0 * friction]])
    generator = np.block([[-A, np.diag([0, 2 * friction])], [np.zeros((2, 2)), A.T]])
    for t in (1e-2, 0.03, 0.1, 0.3, 1.0):
        b = beta_min * t + 0.5 * (beta_max - beta_min) * t * t
        doublings = max(0, math.ceil(math.log2(b * np.abs(A).max() * 4)))
        block = expm(generator * b / 2**doublings)
        phi = block[2:, 2:].T
        Q = phi @ block[:2, 2:]
        for _ in range(doublings):
            phi, Q = phi @ phi, phi @ Q @ phi.T + Q
        cov = torch.tensor(phi @ np.diag([1e-12, 0.01]) @ phi.T + Q)
        kernel = sde.kernel(tensor(t))
        mean = torch.tensor(expm(A * b)[:, 0])
        assert (kernel.M[0] - mean).norm() / mean.norm() < 1e-12
        close(normalised(covariance(kernel)[0], cov), normalised(cov, cov), 0, 1e-12)


@pytest.mark.parametrize("friction", FRICTIONS)
def test_short_langevin_kernels_keep_twelve_digits(friction):
    # The power series in b, exact to rounding where b is short: Φ = Σ (Ab)ⁿ/n!, Q = Σ over two such series.
    from fractions import Fraction

    f = Fraction(friction)
    A = [[Fraction(0), Fraction(4)], [Fraction(-1), -4 * f]]
    for t in (1e-5, 1e-4, 1e-3):
        b = Fraction(4.0) * Fraction(t)
        terms = [[Fraction(0), Fraction(1)]]  # Aⁿ e₂ / n!
        for n in range(1, 12):
            x, v = terms[-1]
            terms.append([(A[0][0] * x + A[0][1] * v) / n, (A[1][0] * x + A[1][1] * v) / n])
        column = [sum(c[i] * b**n for n, c in enumerate(terms)) for i in (0, 1)]
        Q = [
            [
                2
                * f
                * sum(
                    p[i] * q[j] * b ** (n + m + 1) / (n + m + 1)
                    for n, p in enumerate(terms)
                    for m, q in enumerate(terms)
                )
                for j in (0, 1)
            ]
            for i in (0, 1)
        ]
        cov = [[Q[i][j] + column[i] * column[j] * Fraction(0.04 * 0.25) for j in (0, 1)] for i in (0, 1)]
        kernel = CLD(friction=friction, epsilon=0.0).kernel(tensor(t))
        xx, xv, vv = cov[0][0], cov[0][1], cov[1][1]
        expected = tensor(math.sqrt(xx), 0, float(xv) / math.sqrt(xx), math.sqrt((vv * xx - xv * xv) / xx)).view(2, 2)
        close(kernel.L[0], expected, 1e-12, 0)


def test_frictions_join_smoothly_at_critical_damping():
    t = times_of(CLD())
    below, at, above = (CLD(friction=f).kernel(t).L for f in (1 - 1e-9, 1.0, 1 + 1e-9))
    close(below, at, 1e-8, 1e-10)
    close(above, at, 1e-8, 1e-10)


def test_strong_friction_neither_overflows_nor_loses_the_waveform():
    # Overdamped to the limit, x itself is a VP process: dx = -β/Γ x dt + √(2β/Γ) dw. Here β/Γ = 10 at Γ = 1000.
    sde = CLD(friction=1000.0, beta_min=1e4, beta_max=1e4)
    kernel = sde.kernel(tensor(0.1, 0.3, 1.0))
    close(kernel.M[:, 0], (-10 * tensor(0.1, 0.3, 1.0)).exp(), 1e-4, 1e-9)
    close(kernel.L[:, 0, 0] ** 2, 1 - (-20 * tensor(0.1, 0.3, 1.0)).exp(), 1e-5)


# -------------------------------------------------------------------------------------- known traps


@pytest.mark.parametrize(
    ("sde", "t", "dbfs"),
    [
        (VE(sigma_min=0.01), 0.0, -40.0),
        (EDM(sigma_min=0.002, sigma_max=80.0), 0.002 / 80, -54.0),
        (VP(), 1e-3, -39.6),
        (VP(), 1e-5, -60.0),
        (SubVP(), 1e-3, -79.0),
        (CLD(), 1e-3, -55.0),
        (CLD(epsilon=1e-9), 0.0, -90.0),
        (CLD(epsilon=1e-6), 0.0, -60.0),
        (CLD(), 0.0, -120.0),
    ],
)
def test_noise_left_at_the_smallest_times(sde, t, dbfs):
    assert 20 * math.log10(float(sde.kernel(tensor(t)).L[0, 0, 0])) == pytest.approx(dbfs, abs=0.35)


def test_subvp_keeps_its_digits_at_small_times():
    # 1 - exp(-x) costs 4.7 % of σ at t = 1e-5 in float32, and digits in float64.
    t = 1e-5
    x = 0.1 * t + 0.5 * 19.9 * t * t
    assert float(SubVP().kernel(tensor(t)).L) == pytest.approx(x - x**2 / 2 + x**3 / 6, rel=1e-14, abs=0)
    assert float(VP().kernel(tensor(t)).L) == pytest.approx(math.sqrt(x - x**2 / 2 + x**3 / 6), rel=1e-14, abs=0)


def test_langevin_velocity_precision_is_not_distorted_by_epsilon():
    def precision(epsilon: float, t: float) -> float:
        return float(1 / CLD(epsilon=epsilon).kernel(tensor(t)).L[0, 1, 1])

    assert precision(0.0, 1e-5) == pytest.approx(194, abs=1)
    assert precision(1e-9, 1e-5) == pytest.approx(11, abs=1)
    # Where networks are trained the default distorts nothing.
    assert precision(1e-12, CLD.t_min) == pytest.approx(precision(0.0, CLD.t_min), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: VE(sigma_min=0.0), "sigma_min"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigma_max"),
        (lambda: EDM(sigma_min=-1.0), "sigma_min"),
        (lambda: VP(beta_min=30.0), "beta_min"),
        (lambda: SubVP(beta_max=0.0), "beta_max"),
        (lambda: CLD(mass=0.0), "mass"),
        (lambda: CLD(friction=-1.0), "friction"),
        (lambda: CLD(gamma=0.0), "gamma"),
        (lambda: CLD(epsilon=-1e-9), "epsilon"),
        (lambda: CLD(beta_min=5.0), "beta_max"),
    ],
)
def test_impossible_processes_are_refused_by_name(make, names):
    with pytest.raises(ValueError, match=names):
        make()


def test_every_process_works_with_its_defaults(default_sde):
    assert isinstance(default_sde, SDE)
    assert 0 < default_sde.t_min < default_sde.t_max <= 1
