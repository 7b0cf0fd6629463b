"""Probabilities of cells by densities at chance places in them: a bound that tightens, on laws that are known."""

import math

import pytest
import torch
from truth import GAUSSIAN, SMOOTH, Correlated, Mixture, Oracle

from diffwave_sde import audio
from diffwave_sde.divergence import diagonal, draw_probes
from diffwave_sde.likelihood import Dequantisation, Flow, Levels
from diffwave_sde.likelihood.dequantisation import weighed
from diffwave_sde.likelihood.levels import log_mass
from diffwave_sde.random import stream
from diffwave_sde.sde import CLD, EDM

COUNT, LENGTH = 48, 8
SHARP = EDM(sigma_min=1e-3, sigma_max=50)


def gap(dequantisation, denoiser, levels, x, truth, flow):
    """How far below the truth: (mean, standard error) over the sounds, nats for each."""
    own = [stream("place", i) for i in range(len(x))]
    lost = truth - dequantisation(denoiser, flow, levels, x, None, own).nats
    return float(lost.mean()), float(lost.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("mu", [0.0, 255.0])
def test_it_tightens_with_the_draws_and_a_fitted_law_is_exact_where_samples_are_independent(mu):
    # Cells of 0.125, and of silence, companded, of 0.25.
    levels, law = Levels(mu, bits=8 if mu else 4), Mixture(stds=(0.08,))
    x = levels.round(audio.expand(law.sample((COUNT, 1, LENGTH), stream("x")), mu))
    low, high = (levels.compress(x + sign * levels.width / 2) for sign in (-1, 1))
    std = math.sqrt(0.08**2 + 1e-6)
    truth = log_mass(low / std, high / std).flatten(1).sum(1)

    def found(*options):
        flow = Flow(2, steps=100)  # signs are exact on a diagonal
        return gap(Dequantisation(*options), Oracle(SHARP, law), levels, x, truth, flow)

    gaps = [found("uniform", draws) for draws in (1, 8)]
    assert all(mean > -3 * error for mean, error in gaps), gaps
    assert gaps[0][0] - gaps[1][0] > 3 * gaps[0][1], gaps
    fitted, error = found("variational")
    assert abs(fitted) < LENGTH * 2e-3 + 3 * error, (fitted, error)  # 2e-3: what the prior and the steps lose
    assert error < 0.2 * gaps[0][1]  # one place is as good as another


@pytest.mark.parametrize("trace", ["hutchinson", "exact"])
def test_it_stays_below_and_tightens_where_samples_go_together_and_estimates_are_noisy(trace):
    levels, g = Levels(bits=3), stream("correlated")
    chol = torch.linalg.cholesky(SMOOTH)
    x = levels.round(torch.randn(1, 8, generator=g, dtype=torch.float64) @ chol.T)
    law = torch.distributions.MultivariateNormal(x.new_zeros(8), SMOOTH + 1e-6 * torch.eye(8, dtype=torch.float64))
    cells = levels.width * (torch.rand(400_000, 8, generator=g, dtype=torch.float64) - 0.5) + x
    inside = law.log_prob(cells)
    truth = float(inside.logsumexp(0)) - math.log(len(cells)) + 8 * math.log(levels.width)
    many, flow = x.expand(60, 1, 8), Flow(3, steps=60, trace=trace)
    gaps = {
        options: gap(Dequantisation(*options), Correlated(SHARP), levels, many, truth, flow)
        for options in (("uniform", 1), ("uniform", 8), ("variational", 1), ("variational", 8))
    }
    assert all(mean > -3 * error - 0.05 for mean, error in gaps.values()), gaps
    for law in ("uniform", "variational"):
        assert gaps[law, 8][0] < 0.6 * gaps[law, 1][0], gaps
    # Fitted sample by sample it is narrower than the truth, so that draws help it less.
    assert gaps["variational", 1][0] < 0.8 * gaps["uniform", 1][0], gaps


def test_weights_of_the_same_noise_would_lie_above_the_truth_and_those_of_other_noise_do_not():
    # Sixteen places of one density, 0, each told four times with a noise of 2 nats.
    told = 2 * torch.randn(4000, 16, 4, generator=stream("noise"), dtype=torch.float64)
    naive = float((told.mean(2).logsumexp(1) - math.log(16)).mean())
    split = weighed(told).mean(1)
    assert naive > 0.3
    assert float(split.mean()) < 3 * float(split.std()) / math.sqrt(4000)
    # Without noise it is the logarithm of the mean, whatever the number of estimates.
    exact = told[:, :, :1].expand(-1, -1, 3)
    torch.testing.assert_close(weighed(exact), (exact.logsumexp(1) - math.log(16)))
    torch.testing.assert_close(weighed(told[:, :1]), told[:, 0])


def test_it_is_a_bound_on_processes_with_a_velocity_too():
    levels, law, sde = Levels(bits=4), Mixture(stds=(0.08,)), CLD()
    x = levels.round(law.sample((COUNT, 1, LENGTH), stream("x")))
    truth = log_mass((x - levels.width / 2) / 0.08, (x + levels.width / 2) / 0.08).flatten(1).sum(1)
    gaps = [
        gap(Dequantisation("variational", draws), Oracle(sde, law), levels, x, truth, Flow(3, steps=40))
        for draws in (1, 4)
    ]
    assert all(mean > -3 * error - LENGTH * 2e-3 for mean, error in gaps), gaps
    assert gaps[1][0] < gaps[0][0] + 3 * gaps[0][1], gaps


@pytest.mark.parametrize("law", ["uniform", "variational"])
@pytest.mark.parametrize("mu", [0.0, 255.0])
def test_places_lie_in_their_cells_and_their_law_has_mass_one(law, mu):
    levels = Levels(mu, bits=4)
    x = torch.tensor([-1.0, -0.5, 0.0, 0.875], dtype=torch.float64).expand(200, 1, 4)
    own = [stream("u", i) for i in range(200)]
    made = Dequantisation(law, 2)
    oracle = Oracle(SHARP, Mixture(stds=(0.02,)))  # the outer levels are hundreds of deviations away
    if law == "uniform":
        places = [made._uniform(levels, x, own) for _ in range(2)]
    else:
        places = made._fitted(oracle, levels, x, None, own)
    low, high = (levels.compress(x + sign * levels.width / 2) for sign in (-1, 1))
    for y, log_q in places:
        assert bool(((y >= low - 1e-9) & (y <= high + 1e-9)).all())
        # E 1/q is the volume of the cells.
        volume = (high - low).flatten(1).prod(1)
        ratio = (-log_q).exp() / volume
        assert float(ratio.std()) > 0 or law == "uniform"
        if law == "uniform":
            assert float(ratio.mean()) == pytest.approx(1, rel=0.2)


def test_the_diagonal_of_a_jacobian():
    J = torch.randn(5, 5, generator=stream("J"), dtype=torch.float64)
    u = torch.randn(1, 1, 5, generator=stream("u"), dtype=torch.float64).requires_grad_()
    probes = draw_probes("rademacher", (1, 4000, 1, 5), stream("v"), torch.float64, "cpu")
    found = diagonal(u @ J.T, u, probes)[0, 0]
    error = (J.square().sum(0) - J.diagonal().square()).sqrt() / math.sqrt(4000)
    assert bool(((found - J.diagonal()).abs() < 4 * error).all()), (found, J.diagonal())


def test_impossible_options_are_refused():
    for options, says in (({"law": "normal"}, "choose uniform or variational"), ({"draws": 0}, "draws = 0")):
        with pytest.raises(ValueError, match=says):
            Dequantisation(**options)
    x, own = Levels().round(GAUSSIAN.sample((1, 1, 4), stream("x"))), [stream("g")]
    with pytest.raises(ValueError, match="at least 2 probes"):
        Dequantisation(draws=2)(Oracle(EDM(), GAUSSIAN), Flow(1, steps=4), Levels(), x, None, own)
