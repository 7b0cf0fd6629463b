"""Processes of one block against their papers."""

import math

import pytest
import torch
from scipy.integrate import quad
from truth import close, tensor

from diffwave_sde.sde import (
    CLD,
    DDPM,
    EDM,
    VDM,
    VE,
    VP,
    CosineVP,
    CrashSubVP,
    CrashVP,
    GeneralSubVP,
    MeanSigma,
    PowerVE,
    SigmoidVP,
    SubVP,
)


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
        (CrashVP(), 0.007, -78.3),
        (CrashSubVP(), 0.006, -81.0),
        (SigmoidVP(), 0.0, -80.0),
        (CosineVP(), 1e-5, -64.1),
        (DDPM(), 1e-3, -40.0),
        (VDM(), 0.0, -69.5),
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


@pytest.mark.parametrize("base", [25.0, 150.0])
def test_power_ve_is_that_of_the_tutorial(base):
    # du = σᵗ dW, so σ²(t) = ∫ σ²ˢ ds, here by quadrature.
    sde, t = PowerVE(base), tensor(0.01, 0.3, 1.0)
    close(sde.diffusion(t)[:, 0], base**t, 1e-10)
    for time, sigma in zip(t, sde.kernel(t).L[:, 0, 0], strict=True):
        assert float(sigma**2) == pytest.approx(quad(lambda s: base ** (2 * s), 0, float(time))[0], rel=1e-10)


def test_cosine_vp_is_nichol_and_dhariwal_equation_17():
    t = torch.linspace(0, 0.99, 30, dtype=torch.float64)
    f = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    kernel = CosineVP().kernel(t)
    close(kernel.M[:, 0] ** 2, f / f[0], 1e-12)
    close(kernel.L[1:, 0, 0] ** 2, (1 - f / f[0])[1:], 1e-10)


def test_cosine_vp_keeps_its_digits_at_small_times():
    # By its power series: α² = 1 - 2 d tan(a0) - d² (1 - tan²(a0)) + 4/3 d³ tan(a0), d = π t / (2 (1 + s)).
    t = 1e-6
    d, tan = math.pi / 2 / 1.008 * t, math.tan(math.pi / 2 / 1.008 * 0.008)
    expected = 2 * d * tan + d * d * (1 - tan * tan) - 4 / 3 * d**3 * tan
    assert float(CosineVP().kernel(tensor(t)).L ** 2) == pytest.approx(expected, rel=1e-12, abs=0)


def test_sigmoid_vp_is_the_released_one():
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    sde, variance = SigmoidVP(), 1 / (1 + (-(22.31 * t - 18.42)).exp())
    close(sde.kernel(t).L[:, 0, 0] ** 2, variance, 1e-12)
    close(sde.kernel(t).M[:, 0], (1 - variance).sqrt(), 1e-12)
    close(sde.diffusion(t)[:, 0] ** 2, 22.31 * variance, 1e-9)  # β = 22.31 sigmoid
    # It ends with a trace of the waveform; the prior is the process's own final law.
    assert float(sde.kernel(tensor(1.0)).M) == pytest.approx(0.14, abs=0.002)
    spread = sde.prior((50, 1, 2000), torch.Generator().manual_seed(0)).std()
    assert float(spread) == pytest.approx(math.sqrt(float(variance[-1])), rel=0.01)


@pytest.mark.parametrize(("cls", "power"), [(CrashVP, 2), (CrashSubVP, 1)])
def test_crash_is_the_released_one(cls, power):
    sde = cls()
    t = torch.linspace(sde.t_min, sde.t_max, 21, dtype=torch.float64)
    sigma = 0.5 * (1 - (math.pi * t).cos())
    kernel = sde.kernel(t)
    close(kernel.L[:, 0, 0], sigma, 1e-10)
    close(kernel.M[:, 0] ** 2, 1 - sigma**power, 1e-9)
    slope = 0.5 * math.pi * (math.pi * t).sin()
    if power == 2:  # β = 2 σ σ' / (1 - σ²)
        close(sde.diffusion(t)[:, 0] ** 2, 2 * sigma * slope / (1 - sigma**2), 1e-8)
    else:  # g² = σ' σ (2 - σ) / (1 - σ)
        close(sde.diffusion(t)[:, 0] ** 2, slope * sigma * (2 - sigma) / (1 - sigma), 1e-8)


@pytest.mark.parametrize(("gamma", "eta"), [(0.5, 1.0), (1.0, 1.0), (2.0, 0.5), (1.7, 2.3)])
def test_general_sub_vp_is_its_formula(gamma, eta):
    sde = GeneralSubVP(gamma, eta)
    t = torch.linspace(sde.t_min, sde.t_max, 21, dtype=torch.float64)
    sigma = (math.pi / 2 * t).sin() ** 2
    close(sde.kernel(t).M[:, 0], (1 - sigma**gamma) ** eta, 1e-9)
    assert sde.drift(tensor(0.0)).isfinite().all()
    assert (sde.diffusion(t) > 0).all()


def test_two_of_that_family_are_those_of_crash():
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    for special, (gamma, eta) in ((CrashVP(), (2.0, 0.5)), (CrashSubVP(), (1.0, 0.5))):
        general = GeneralSubVP(gamma, eta)
        close(general.kernel(t).M, special.kernel(t).M, 1e-14)
        close(general.kernel(t).L, special.kernel(t).L, 1e-14)


@pytest.mark.parametrize("sde", [CosineVP(), CrashVP(), CrashSubVP(), GeneralSubVP()], ids=lambda s: type(s).__name__)
def test_cosines_are_bounded_where_they_reach_zero(sde):
    # cos(π/2) is slightly negative in float32: its logarithm would be NaN.
    kernel = sde.kernel(torch.ones(1))
    assert kernel.M.isfinite().all()
    assert kernel.snr.isfinite().all()
    assert (kernel.snr > 0).all()
    assert float(kernel.snr.log()) < -10


# -------------------------------------------------------------------------------------- two functions


def test_mean_and_sigma_alone_make_a_process():
    # Sub-VP from its two formulas, against the class that knows its precise form.
    def mean(t):
        return (-0.5 * (0.1 * t + 0.5 * 19.9 * t**2)).exp()

    given, known = MeanSigma(mean, lambda t: 1 - mean(t) ** 2, t_max=1.0), SubVP()
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    close(given.drift(t), known.drift(t), 1e-10)
    close(given.diffusion(t), known.diffusion(t), 1e-8)
    close(given.kernel(t).L, known.kernel(t).L, 1e-11)
    for a, b in zip(given.transition(t[:-1], t[1:]), known.transition(t[:-1], t[1:]), strict=True):
        close(a, b, 1e-9)


def test_the_straight_line_is_that_of_rectified_flow():
    sde, t = MeanSigma(), tensor(0.2, 0.5, 0.9)
    close(sde.kernel(t).M[:, 0], 1 - t, 1e-14)
    close(sde.kernel(t).L[:, 0, 0], t, 1e-14)
    close(sde.drift(t)[:, 0, 0], -1 / (1 - t), 1e-12)
    close(sde.diffusion(t)[:, 0] ** 2, 2 * t / (1 - t), 1e-12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MeanSigma(lambda t: 0.5 - t), r"mean\(0.5\) = .* must be positive"),
        (lambda: MeanSigma(sigma=lambda t: t - 0.5), "sigma.* must be positive"),
        (lambda: MeanSigma(lambda t: 1 + t, lambda t: 0.1 + 0 * t), "does not fall after t = 0.001"),
        (lambda: MeanSigma(t_min=0.9, t_max=0.5), "t_min = 0.9"),
        (lambda: MeanSigma(lambda t: 1 + 0 * t, t_max=2.0), "t_max = 2"),
        (lambda: PowerVE(1.0), "base = 1"),
        (lambda: CosineVP(0.0), "offset"),
        (lambda: SigmoidVP(rate=-1.0), "rate"),
        (lambda: GeneralSubVP(gamma=0.3), "gamma = 0.3"),
        (lambda: GeneralSubVP(eta=0.0), "eta"),
    ],
)
def test_what_is_no_diffusion_is_refused_in_one_line(make, says):
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------- measured on the data


def test_ve_takes_its_largest_noise_from_the_data_if_told_to():
    given, measured = VE(), VE(sigma_max=None)
    assert not list(given.buffers())
    given.adapt(lambda: 1 / 0)  # it does not ask
    measured.adapt(lambda: 123.0)
    assert float(measured.kernel(tensor(1.0)).L) == pytest.approx(123.0, rel=1e-6)
    assert float(measured.kernel(tensor(0.0)).L) == pytest.approx(0.01, rel=1e-6)
    again = VE(sigma_max=None)
    again.load_state_dict(measured.state_dict())
    close(again.kernel(tensor(0.7)).L, measured.kernel(tensor(0.7)).L, 0)
