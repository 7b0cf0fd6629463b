"""The learned process: what it is, and that learning makes the loss vary less and leaves its mean."""

import copy

import pytest
import torch
from truth import MIXTURE, Oracle, bent, close, tensor

from diffwave_sde.loss import LikelihoodWeight, Loss, UniformTime
from diffwave_sde.sde import VDM


def test_gamma_rises_from_end_to_end_whatever_its_parameters():
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for sde in (VDM(), bent(0), bent(1), bent(2)):
        gamma, rate = sde.gamma(t)
        assert (gamma.diff() > 0).all()
        close(gamma[[0, -1]], tensor(-16.0, 8.0), 1e-12)
        between = (t[1:] + t[:-1]) / 2
        close(sde.gamma(between)[1], gamma.diff() / t.diff(), 1e-3, 1e-3)
        assert (rate > 0).all()


def test_it_begins_as_a_straight_line_nearly():
    gamma, _ = VDM().gamma(tensor(0.25, 0.5, 0.75))
    close(gamma, tensor(-10.0, -4.0, 2.0), 0, 0.3)


@pytest.mark.parametrize("sde", [VDM().requires_grad_(False), bent()], ids=["new", "bent"])
def test_kernel_and_transition_are_those_of_kingma(sde):
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    gamma, rate = sde.gamma(t)
    kernel = sde.kernel(t)
    close(kernel.M[:, 0] ** 2, torch.sigmoid(-gamma), 1e-12)
    close(kernel.L[:, 0, 0] ** 2, torch.sigmoid(gamma), 1e-12)
    close(-kernel.snr.log(), gamma, 1e-10)
    # Appendix A.1: α_{t|s} = α_t / α_s, σ²_{t|s} = σ_t² - α²_{t|s} σ_s²
    phi, Q = sde.transition(t[:-1], t[1:])
    alpha, variance = kernel.M[:, 0], kernel.L[:, 0, 0] ** 2
    close(phi[:, 0, 0], alpha[1:] / alpha[:-1], 1e-12)
    close(Q[:, 0, 0], variance[1:] - (alpha[1:] / alpha[:-1]) ** 2 * variance[:-1], 1e-8)
    # The bound's weight, ½ γ' |ε - ε̂|² = ½ γ' snr |D - x|²
    close(sde.diffusion(t)[:, 0] ** 2 * kernel.matched[:, 0] ** 2, rate * kernel.snr, 1e-9)


def losses(sde, count=4000, seed=0, length=32):
    g = torch.Generator().manual_seed(seed)
    x = MIXTURE.sample((count, 1, length), g)
    denoiser = Oracle(sde, MIXTURE)
    denoiser.sigma_data = torch.tensor(0.5)
    loss = Loss(UniformTime(), LikelihoodWeight(), "independent")
    return loss.at(denoiser, x, loss.draw(sde, x, g))


def test_the_gradient_is_that_of_the_square():
    sde = VDM()
    with torch.enable_grad():
        values = losses(sde, 50)
        got = torch.autograd.grad(values.sum(), list(sde.parameters()), retain_graph=True)
        sde._factor = None  # the plain gradient, of each example, weighed by hand
        expected = [torch.zeros_like(p) for p in sde.parameters()]
        for value in values:
            for e, g in zip(
                expected, torch.autograd.grad(value, list(sde.parameters()), retain_graph=True), strict=True
            ):
                e += 2 * value.detach() * g
    for a, b in zip(got, expected, strict=True):
        close(a, b, 1e-3, 1e-4 * float(b.abs().max()))


def test_learning_makes_the_loss_vary_less_and_keeps_its_mean():
    sde = VDM()
    before = losses(copy.deepcopy(sde).requires_grad_(False))
    optimizer = torch.optim.Adam(sde.parameters(), lr=0.03)
    for step in range(150):
        optimizer.zero_grad()
        losses(sde, 128, seed=step + 1).mean().backward()
        optimizer.step()
    after = losses(sde.requires_grad_(False))
    assert after.std() < 0.7 * before.std()
    error = (before.var() + after.var()).div(len(before)).sqrt()
    assert (after.mean() - before.mean()).abs() < 5 * error
    gamma, rate = sde.gamma(torch.linspace(0, 1, 1001).double())
    assert (gamma.diff() > 0).all()
    assert rate.max() / rate.min() > 2  # it did bend


@pytest.mark.parametrize(
    ("options", "says"), [({"gamma_min": 3.0, "gamma_max": 1.0}, "gamma_min = 3"), ({"hidden": 0}, "hidden = 0")]
)
def test_impossible_processes_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        VDM(**options)
