"""The estimators against densities that are known."""

import math

import pytest
import torch
from truth import GAUSSIAN, MIXTURE, PROCESSES, SMOOTH, Correlated, Mixture, Oracle

from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.likelihood import Bound, Flow, Proxy
from diffwave_sde.likelihood.flow import whitened_signal
from diffwave_sde.random import stream
from diffwave_sde.sde import CLD, DDPM, EDM, VP

ALL = pytest.mark.parametrize("name", PROCESSES)


def log_density(data: Mixture, x, variance=0.0):
    """log p of each sound (B,) under the law of `data` with noise of this variance added."""
    var = data.stds**2 + variance
    parts = data.weights.log() - 0.5 * ((x[..., None] - data.means) ** 2 / var + (2 * math.pi * var).log())
    return parts.logsumexp(-1).flatten(1).sum(1)


def noise(sde) -> float:
    """The variance of the noise of t_min, in units of the sound."""
    return 1 / float(sde.kernel(torch.tensor([sde.t_min])).snr)


def left(sde) -> float:
    """What is left of the sound at t_max, which the prior takes for nothing: the SNR there."""
    return float(sde.kernel(torch.tensor([sde.t_max])).snr)


@ALL
def test_the_flow_gives_the_exact_density(name):
    sde, g = PROCESSES[name], stream("flow", name)
    x = MIXTURE.sample((2, 1, 24), g)
    flow = Flow(probes=1 if sde.blocks == 1 else 24, steps=200)
    found = flow(Oracle(sde, MIXTURE), x, generator=g)
    truth = log_density(MIXTURE, x, noise(sde))
    # The prior is that of noise alone: 0.5 SNR(t_max) x² of each sample is lost or won by it.
    slack = 24 * (0.5 * left(sde) + 2e-3)
    error = found.error if sde.blocks > 1 else torch.zeros(2)  # a diagonal Jacobian is exact by signs
    if sde.blocks == 1:
        assert flow.kind(sde) == "density"
        assert ((found.nats - truth).abs() < slack).all(), (found.nats - truth, slack)
    else:
        assert flow.kind(sde) == "bound"
        assert (found.nats < truth + 3 * error + slack).all(), (found.nats - truth, error)
        # and no loose one: the velocity is drawn as it lies, for data that are smooth over the noise
        assert (found.nats > truth - 3 * error - slack - 24 * 0.15).all(), (found.nats - truth, error)


def test_a_langevin_process_loses_nothing_where_data_are_smooth():
    x = GAUSSIAN.sample((4, 1, 32), stream("smooth"))
    found = Flow(probes=16, steps=200)(Oracle(CLD(), GAUSSIAN), x, generator=stream("draws"))
    truth = log_density(GAUSSIAN, x, noise(CLD()))
    assert ((found.nats - truth).abs() < 3 * found.error + 32 * 2e-3).all(), (found.nats - truth, found.error)


def correlated(count: int):
    """One sound of N(0, SMOOTH) `count` times, and its log density with the noise of EDM's t_min."""
    sde = EDM()
    chol = torch.linalg.cholesky(SMOOTH)
    x = (chol @ torch.randn(8, generator=stream("x"), dtype=torch.float64))[None, None]
    law = torch.distributions.MultivariateNormal(
        torch.zeros(8, dtype=torch.float64), SMOOTH + noise(sde) * torch.eye(8, dtype=torch.float64)
    )
    return Correlated(sde), x.expand(count, -1, -1), float(law.log_prob(x[0, 0]))


def test_the_exact_trace_needs_no_probes():
    denoiser, x, truth = correlated(1)
    for options in ({"tolerance": 1e-6}, {"steps": 400}):
        found = Flow(trace="exact", **options)(denoiser, x)
        assert float(found.nats) == pytest.approx(truth, abs=0.03), options


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_intervals_of_the_standard_error_cover_the_truth_as_often_as_they_say(kind):
    denoiser, x, _ = correlated(500)
    exact = float(Flow(trace="exact", steps=20)(denoiser, x[:1]).nats)
    found = Flow(probes=16, noise=kind, steps=20)(denoiser, x, generator=stream("probes", kind))
    assert float(found.error.mean()) > 0.05  # the probes have something to err in
    covered = ((found.nats - exact).abs() < 2.131 * found.error).double().mean()  # t of 15 degrees of freedom, 95 %
    assert 0.91 < float(covered) < 0.985, float(covered)


def test_halving_the_step_quarters_the_error():
    denoiser, x, truth = correlated(1)
    errors = [abs(float(Flow(trace="exact", steps=n)(denoiser, x).nats) - truth) for n in (50, 100, 200)]
    slope = math.log2(errors[0] / errors[2]) / 2
    assert abs(slope - 2) < 0.4, errors


def test_calls_and_backward_passes_do_not_grow_with_the_length():
    calls = []
    for length in (16, 64):
        denoiser = Oracle(EDM(), GAUSSIAN)
        Flow(probes=1, steps=10)(denoiser, GAUSSIAN.sample((1, 1, length), stream("n")), generator=stream("p"))
        calls.append(denoiser.calls)
    assert calls == [21, 21]


@ALL
def test_the_bound_lies_above_the_entropy_and_is_tight_as_steps_grow(name):
    sde, g = PROCESSES[name], stream("bound", name)
    x = GAUSSIAN.sample((128, 1, 32), g)
    truth = -log_density(GAUSSIAN, x) / 32
    losses = {}
    for steps in (16, 128, None):
        found = Bound(probes=1, terms=16, steps=steps)(Oracle(sde, GAUSSIAN), x, generator=g)
        losses[steps] = -found.nats / 32 - truth
    mean = {steps: float(loss.mean()) for steps, loss in losses.items()}
    error = max(float(loss.std()) / math.sqrt(128) for loss in losses.values())
    assert mean[16] > mean[128] > mean[None] - 3 * error, mean
    assert mean[None] > -3 * error, (mean, error)
    # What is left is a decoder as wide as the noise of t_min, and a prior that knows nothing of what is left of x.
    assert mean[None] < 3 * error + 0.25 * left(sde) + noise(sde), (mean, error)


class Learned(BaseDenoiser):
    """The exact denoiser with a learned variance, the same everywhere."""

    def __init__(self, sde, data, share):
        super().__init__()
        self.sde, self.inner, self.share, self.sigma_data = sde, Oracle(sde, data), share, data.std

    def predict(self, u, t, condition=None):
        D, _ = self.inner.predict(u, t)
        return D, torch.full_like(D, self.share)


def test_the_bound_of_a_learned_variance_is_that_of_its_own_chain():
    x = GAUSSIAN.sample((256, 1, 32), stream("learned"))
    truth = -log_density(GAUSSIAN, x) / 32
    gaps = {}
    for share in (0.0, 0.9, 1.0):
        found = Bound(probes=1, terms=100)(Learned(DDPM(), GAUSSIAN, share), x, generator=stream("terms"))
        gap = -found.nats / 32 - truth
        assert float(gap.mean()) > -3 * float(gap.std()) / 16, (share, float(gap.mean()))
        gaps[share] = float(gap.mean())
    assert gaps[0.9] != gaps[1.0] != gaps[0.0], gaps  # it is the network's own variance that counts
    assert min(gaps.values()) < 0.05, gaps


@pytest.mark.parametrize(
    "estimator",
    [Flow(1, steps=60), Bound(2, 24), Proxy(), Proxy(8, lowest=0.1)],
    ids=["flow", "bound", "proxy", "proxy-above"],
)
@pytest.mark.parametrize("name", ["EDM", "VP", "CLD"])
def test_models_are_ranked_as_the_truth_ranks_them(estimator, name):
    sde = PROCESSES[name]
    x = GAUSSIAN.sample((8, 1, 64), stream("rank"))
    laws = [Mixture(stds=(s,)) for s in (0.5, 0.3, 0.15)]
    found = [float(estimator(Oracle(sde, law), x, generator=stream("same")).nats.mean()) for law in laws]
    true = [float(log_density(law, x).mean()) for law in laws]
    assert sorted(found, reverse=True) == found, found
    assert sorted(true, reverse=True) == true


def test_a_sound_is_estimated_alike_whatever_stands_beside_it():
    x = MIXTURE.sample((3, 1, 16), stream("beside"))
    denoiser = Oracle(VP(), MIXTURE)
    for estimator in (Flow(2, steps=8), Bound(2, 4), Proxy(4)):
        own = [stream("sound", i) for i in range(3)]
        together = estimator(denoiser, x, generator=own).draws
        alone = estimator(denoiser, x[1:2], generator=[stream("sound", 1)]).draws
        torch.testing.assert_close(together[1:2], alone)


def test_dh_is_the_derivative_of_h():
    for sde in (EDM(), VP(), CLD()):
        t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
        _, slope = whitened_signal(sde, t)
        ahead, behind = (sde.kernel(t * (1 + d)).whitened for d in (1e-5, -1e-5))
        torch.testing.assert_close(slope, (ahead - behind) / (2e-5 * t[:, None]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Flow(probes=0), "probes = 0"),
        (lambda: Flow(trace="half"), "choose hutchinson or exact"),
        (lambda: Flow(steps=1), "steps = 1"),
        (lambda: Bound(terms=64, steps=10), "at least the 64 terms"),
        (lambda: Proxy(terms=0), "terms = 0"),
        (lambda: Proxy(lowest=1e9)(Oracle(EDM(), GAUSSIAN), torch.zeros(1, 1, 4)), "leaves no noise level"),
    ],
)
def test_impossible_options_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
