import pytest
import torch
from torch import nn
from truth import GAUSSIAN, PROCESSES, SIGMA_DATA, WEIGHTS, exact, fixed, times_of, weight_inputs

from diffwave_sde.denoiser import Denoiser
from diffwave_sde.loss import (
    DataWeight,
    EpsilonWeight,
    ExtendedWeight,
    KarrasWeight,
    LikelihoodWeight,
    Loss,
    MinSNRWeight,
    P2Weight,
    ScoreWeight,
    VWeight,
)
from diffwave_sde.parametrization import X0, Epsilon, Karras, Score, V
from diffwave_sde.sde import CLD, EDM, VP, apply, embed_waveform


def test_karras_weight_is_table_1_of_edm():
    sde = EDM()
    t = times_of(sde)
    sigma = sde.sigma(t)
    expected = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    torch.testing.assert_close(KarrasWeight()(weight_inputs(sde, t)), expected)


def test_data_weight_counts_the_waveform_itself(sde):
    x, draw = fixed(sde, 0.4, examples=3, length=10)
    D = GAUSSIAN.denoise(sde, sde.kernel(draw.t).sample(x, draw.eps), draw.t)
    loss = Loss(weight=DataWeight()).at(exact(sde, Karras(), GAUSSIAN), x, draw)
    torch.testing.assert_close(loss, (D - x).square().mean((1, 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_epsilon_weight_counts_the_noise_that_enters(name):
    sde = PROCESSES[name]
    x, draw = fixed(sde, 0.4, examples=3, length=10)
    denoiser = exact(sde, Karras(), GAUSSIAN)
    u = sde.kernel(draw.t).sample(x, draw.eps)
    expected = (denoiser.eps(u, draw.t)[:, -1] - draw.eps[:, -1]).square().mean((1, 2))
    torch.testing.assert_close(Loss(weight=EpsilonWeight()).at(denoiser, x, draw), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("sde", [VP(), CLD()], ids=["VP", "CLD"])
def test_epsilon_weight_on_an_epsilon_network_is_its_plain_squared_error(sde):
    # Ho et al. 2020, eq. 14; in Langevin dynamics hybrid score matching with λ = ℓ⁻².
    x, draw = fixed(sde, 0.4, examples=3, length=10)

    class Net(nn.Module):
        def forward(self, u, noise, condition=None):
            return 0.3 * u[:, -1:]

    denoiser = Denoiser(Net(), sde, Epsilon()).double()
    kernel = sde.kernel(draw.t)
    u = kernel.sample(x, draw.eps)
    power = kernel.M[:, -1].square() * 0.25 + kernel.L[:, -1].square().sum(-1)
    output = 0.3 * u[:, -1] / power.sqrt()[:, None, None]
    expected = (output - draw.eps[:, -1]).square().mean((1, 2))
    torch.testing.assert_close(Loss(weight=EpsilonWeight()).at(denoiser, x, draw), expected, rtol=1e-9, atol=0)
    # The same for the score, whose λ is L_vv²: ℓ⁻² in Dockhorn's notation.
    score = Denoiser(Net(), sde, Score()).double()
    residual = (output + draw.eps[:, -1] / kernel.L[:, -1, -1, None, None]).square().mean((1, 2))
    expected = kernel.L[:, -1, -1] ** 2 * residual
    torch.testing.assert_close(Loss(weight=EpsilonWeight()).at(score, x, draw), expected, rtol=1e-9, atol=0)


def test_weights_are_finite_and_positive(sde, weight):
    if isinstance(weight, EpsilonWeight) and sde.blocks == 2 and sde.friction < 1:
        pytest.skip("underdamped, the velocity's noise loses sight of the waveform: the weight passes zero")
    w = weight(weight_inputs(sde, times_of(sde)))
    assert w.isfinite().all()
    assert (w > 0).all()


# -------------------------------------------------------------------------------------- the likelihood


def test_the_likelihood_weight_is_half_the_fall_of_the_snr(sde):
    t = torch.linspace(0.05037, 0.95037, 7, dtype=torch.float64)
    h = 1e-4
    snr = {k: sde.kernel(t + k * h).snr for k in (-2, -1, 1, 2)}
    slope = (8 * (snr[1] - snr[-1]) - (snr[2] - snr[-2])) / (12 * h)
    torch.testing.assert_close(LikelihoodWeight()(weight_inputs(sde, t)), -0.5 * slope, rtol=1e-6, atol=1e-12)


def test_it_is_score_matching_with_half_g_squared(sde):
    # Song et al. 2021b, eq. 7: ½ ∫ g² |s - ∇ log p|² dt; Dockhorn et al. 2022, eq. 8: λ = Γβ = g² / 2.
    x, draw = fixed(sde, 0.3, examples=3, length=10)
    denoiser = exact(sde, Karras(), GAUSSIAN)
    kernel = sde.kernel(draw.t)
    u = kernel.sample(x, draw.eps)
    target = -torch.einsum("brs,brct->bsct", kernel.inverse, draw.eps)
    error = (denoiser.score(u, draw.t) - target)[:, -1].square().mean((1, 2))
    loss = Loss(weight=LikelihoodWeight()).at(denoiser, x, draw)
    torch.testing.assert_close(loss, 0.5 * sde.diffusion(draw.t)[:, -1] ** 2 * error, rtol=1e-6, atol=0)


def test_for_langevin_dynamics_it_is_friction_times_beta():
    sde, t = CLD(beta_min=2.0, beta_max=6.0, friction=1.3), torch.tensor([0.2, 0.7]).double()
    kernel = sde.kernel(t)
    expected = 1.3 * (2 + 4 * t) * kernel.matched[:, 1] ** 2
    torch.testing.assert_close(LikelihoodWeight()(weight_inputs(sde, t)), expected)


def test_it_is_the_continuous_bound_of_kingma():
    # Kingma et al. 2021, eq. 17 to 20: ½ γ'(t) |ε - ε̂|², γ = -log SNR; for VP γ' = β / σ².
    sde, t = VP(), torch.tensor([0.1, 0.5, 0.9]).double()
    beta, variance = 0.1 + 19.9 * t, sde.sigma(t) ** 2
    torch.testing.assert_close(LikelihoodWeight()(weight_inputs(sde, t)), 0.5 * beta / variance * sde.kernel(t).snr)


@pytest.mark.parametrize("steps", [5, 50])
def test_the_discrete_bound_is_the_divergence_of_the_posteriors(sde, steps):
    # T · KL(q(u_s | u_t, x) ‖ q(u_s | u_t, D)), by torch.distributions, for processes of one block and of two.
    t = sde.t_max * torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64) / steps
    s = t - sde.t_max / steps
    _, signal, covariance = sde.posterior(s, t)
    x, D = 0.4, -0.1
    q, p = (
        torch.distributions.MultivariateNormal(signal * v, covariance_matrix=(covariance + covariance.mT) / 2)
        for v in (x, D)
    )
    expected = steps * torch.distributions.kl_divergence(q, p)
    got = LikelihoodWeight(steps)(weight_inputs(sde, t)) * (x - D) ** 2
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-9)


def test_many_steps_are_continuous_time(sde):
    t = torch.tensor([0.2004, 0.5004, 0.9004]).double()
    fine, whole = LikelihoodWeight(100_000)(weight_inputs(sde, t)), LikelihoodWeight()(weight_inputs(sde, t))
    torch.testing.assert_close(fine, whole, rtol=0.02, atol=1e-9)


def test_the_bound_adds_up_to_the_fall_of_the_snr(default_sde):
    # Whatever the path, ∫ w dt = ½ (SNR(t_min) - SNR(t_max)): the sum over a chain telescopes.
    sde, steps = default_sde, 400
    t = sde.t_max * torch.arange(1, steps + 1, dtype=torch.float64) / steps
    t = t.clamp_min(sde.t_min)
    total = LikelihoodWeight(steps)(weight_inputs(sde, t)).mean()
    ends = sde.kernel(torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)).snr
    torch.testing.assert_close(total, 0.5 * (ends[0] - ends[1]), rtol=1e-9, atol=0)


def test_the_bound_may_be_tilted():
    t = torch.tensor([0.2, 0.7]).double()
    here = weight_inputs(VP(), t)
    tilted = LikelihoodWeight(weight_fn=lambda gamma: torch.sigmoid(2 - gamma))
    gamma = -here.snr.log()
    torch.testing.assert_close(tilted(here), LikelihoodWeight()(here) / (1 + (gamma - 2).exp()))


# -------------------------------------------------------------------------------------- errors of what networks give


class Fixed(nn.Module):
    """A network that gives some function of its input, whatever it is asked."""

    def forward(self, u, noise, condition=None):
        return 0.3 * u[:, -1:].sin()


# For each weight the quantity whose plain squared error it stands for, as a function of a waveform x and a state u.
QUANTITIES = {
    "DataWeight": lambda kernel, u, x: x,
    "EpsilonWeight": lambda kernel, u, x: apply(kernel.inverse, u - embed_waveform(kernel.M, x))[:, -1],
    "ScoreWeight": lambda kernel, u, x: apply(kernel.precision, embed_waveform(kernel.M, x) - u)[:, -1],
    "VWeight": lambda kernel, u, x: (
        x * (1 + kernel.snr).sqrt()[:, None, None]  # v = α n - σ x with n = (y - x) / σ_n: slope -√(1 + snr) in x
    ),
}


@pytest.mark.parametrize("name", QUANTITIES)
def test_weights_count_the_error_of_what_they_are_called_for(sde, name):
    x, draw = fixed(sde, 0.3, examples=3, length=10)
    denoiser = Denoiser(Fixed(), sde).double()
    kernel = sde.kernel(draw.t)
    u = kernel.sample(x, draw.eps)
    quantity = QUANTITIES[name]
    error = quantity(kernel, u, denoiser(u, draw.t)) - quantity(kernel, u, x)
    loss = Loss(weight=WEIGHTS[name]).at(denoiser, x, draw)
    torch.testing.assert_close(loss, error.square().mean((1, 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("parametrization", "weight"), [(V(), VWeight()), (X0(), DataWeight()), (Karras(), KarrasWeight())]
)
def test_a_network_s_own_weight_makes_a_plain_regression(sde, parametrization, weight):
    # |net - its exact target|², for any network: w out² = 1.
    t = times_of(sde)
    _, out = parametrization(sde.kernel(t), torch.tensor(SIGMA_DATA).double())
    torch.testing.assert_close(weight(weight_inputs(sde, t)) * out.square(), torch.ones_like(out), rtol=1e-9, atol=0)


def test_the_epsilon_weight_is_one_over_the_expected_score(sde):
    # Song et al. 2021, § 3.3: λ ∝ 1 / E|∇ log p(u_t | x)|², measured in the block that noise enters.
    if sde.blocks == 2 and sde.friction < 1:
        pytest.skip("underdamped, the velocity's noise loses sight of the waveform: both weights pass zero")
    t = times_of(sde)
    kernel = sde.kernel(t)
    eps = torch.randn(len(t), sde.blocks, 1, 20_000, generator=torch.Generator().manual_seed(0)).double()
    score = apply(kernel.inverse.mT, eps)[:, -1]
    expected = 1 / score.square().mean((1, 2))
    ratio = EpsilonWeight()(weight_inputs(sde, t)) / ScoreWeight()(weight_inputs(sde, t))
    torch.testing.assert_close(ratio, expected, rtol=0.06, atol=0)


def test_the_extended_weight_is_its_three_terms():
    x, draw = fixed(CLD(), 0.3, examples=3, length=10)
    sde = CLD()
    kernel = sde.kernel(draw.t)
    denoiser = exact(sde, Karras(), GAUSSIAN)
    u = kernel.sample(x, draw.eps)
    error = denoiser.eps(u, draw.t) - draw.eps
    ex, ev = error[:, 0], error[:, 1]
    L = torch.linalg.inv(kernel.L).mT  # -L⁻ᵀ ε is the score
    xx, xv, vv = (a[:, None, None] for a in (L[:, 0, 0], L[:, 0, 1], L[:, 1, 1]))
    for a, b, c in ((1.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.5, 2.0, 0.3), (0.0, 1.0, 0.0)):
        expected = a * (xx * ex) ** 2 + b * (vv * ev) ** 2 + c * (2 * xx * xv * ex * ev + (xv * ev) ** 2)
        loss = Loss(weight=ExtendedWeight(a, b, c)).at(denoiser, x, draw)
        torch.testing.assert_close(loss, expected.mean((1, 2)), rtol=1e-5, atol=0)
    # With all three it is the error of the whole score; with the velocity's own alone Dockhorn's, λ = 1.
    whole = (denoiser.score(u, draw.t) + apply(L, draw.eps)).square().sum(1).mean((1, 2))
    torch.testing.assert_close(Loss(weight=ExtendedWeight()).at(denoiser, x, draw), whole, rtol=1e-5, atol=0)
    velocity = Loss(weight=ScoreWeight()).at(denoiser, x, draw)
    torch.testing.assert_close(Loss(weight=ExtendedWeight(0.0, 1.0, 0.0)).at(denoiser, x, draw), velocity)


def test_min_snr_and_p2_are_their_formulas():
    here = weight_inputs(VP(), torch.linspace(0.01, 1, 20).double())
    snr = here.snr
    torch.testing.assert_close(MinSNRWeight(5.0)(here), torch.minimum(snr, torch.full_like(snr, 5.0)))
    torch.testing.assert_close(P2Weight(1.0, 0.5)(here), snr / (1 + snr).sqrt())
    torch.testing.assert_close(P2Weight(1.0, 0.0)(here), EpsilonWeight()(here))
    torch.testing.assert_close(MinSNRWeight(1e12)(here), EpsilonWeight()(here))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MinSNRWeight(0.0), "gamma = 0"),
        (lambda: P2Weight(k=0.0), "k = 0"),
        (lambda: P2Weight(gamma=-1.0), "gamma = -1"),
        (lambda: ExtendedWeight(xx=0.5), "xv = 1"),
        (lambda: LikelihoodWeight(steps=1), "steps = 1"),
    ],
)
def test_impossible_weights_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
