"""Conditioning on audio, held to linear-Gaussian pairs, whose conditional laws are exact."""

import pytest
import torch
from truth import SMOOTH

from diffwave_sde.data.clips import Batch
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.guidance import ClassifierFree, ContextFree, Guidance
from diffwave_sde.loss import Loss
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import MDCT, UNet
from diffwave_sde.samplers import Heun
from diffwave_sde.sde import EDM, VP, broadcast_like

LAYOUT = {"channels": (16, 16), "factors": (4,), "blocks": 1, "embedding": 16, "heads": 2, "position": 4}


class ConditionalGaussian(BaseDenoiser):
    """The exact denoiser of x | c ~ N(A c, SMOOTH); of x ~ N(0, A Aᵀ + SMOOTH), c white, where c is silence."""

    def __init__(self, sde):
        super().__init__()
        self.sde, self.sigma_data = sde, torch.tensor(0.5)
        self.A = 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def predict(self, u, t, condition=None):
        kernel = self.sde.kernel(t)
        y = (broadcast_like(kernel.matched, u) * u).sum(1) / broadcast_like(kernel.snr, u[:, 0])
        told = condition is not None and condition.audio is not None
        c = condition.audio if told else torch.zeros_like(y)
        heard = (c != 0).any(2, keepdim=True)
        mean = c @ self.A.mT
        covariance = torch.where(heard, SMOOTH, SMOOTH + self.A @ self.A.mT)
        noisy = covariance + torch.eye(8, dtype=torch.float64) / kernel.snr[:, None, None]
        return mean + (covariance @ torch.linalg.solve(noisy, (y - mean).mT)).mT, None


@pytest.mark.parametrize("process", [lambda: EDM(sigma_max=400.0), VP], ids=["EDM", "VP"])
def test_sounds_sampled_with_a_context_follow_the_conditional_law(process):
    n, g = 4000, torch.Generator().manual_seed(0)
    denoiser = ConditionalGaussian(process())
    c = torch.randn(1, 1, 8, generator=g, dtype=torch.float64).expand(n, -1, -1)
    u = denoiser.sde.prior((n, 1, 8), g).double()
    x = Heun(80)(denoiser, u, Condition(audio=c), g)[:, 0]
    mean, spread = (c[0] @ denoiser.A.mT)[0], SMOOTH.diagonal()
    assert ((x.mean(0) - mean).abs() < 3 * (spread / n).sqrt()).all()
    error = ((SMOOTH**2 + spread[:, None] * spread) / n).sqrt()
    assert ((torch.cov(x.T) - SMOOTH).abs() < 3 * error).all()


def test_guidance_weighs_the_answers_with_and_without_the_context():
    denoiser, g = ConditionalGaussian(VP()), torch.Generator().manual_seed(0)
    u, c = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((3, 1, 1, 8), (3, 1, 8)))
    c[2] = 0  # silence: nothing to be led to
    t = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    guided = ContextFree(denoiser, 2.5)
    told, untold = denoiser(u, t, Condition(audio=c)), denoiser(u, t)
    torch.testing.assert_close(guided(u, t, Condition(audio=c)), 2.5 * told - 1.5 * untold)
    torch.testing.assert_close(guided(u, t, Condition(audio=c))[2], untold[2])
    torch.testing.assert_close(guided(u, t), untold)
    at = guided.nodes(t, u)
    for i in range(3):
        one = slice(i, i + 1)
        got = at(u[one], i, Condition(audio=c[one]))[0]
        torch.testing.assert_close(got, guided(u, t, Condition(audio=c))[one])


class Additive(BaseDenoiser):
    """D = u + context + class, each if it is told: what tells of x independently."""

    def __init__(self):
        super().__init__()
        self.sde, self.sigma_data = VP(), torch.tensor(0.5)

    def predict(self, u, t, condition=None):
        label = condition.label.clamp_min(0).to(u)[:, None, None]
        return u[:, 0] + condition.audio + label, None


def test_guidance_by_context_and_by_class_add_up():
    u, c = torch.randn(2, 1, 1, 8), torch.randn(2, 1, 8)
    t = torch.tensor([0.3, 0.3])
    guided = ContextFree(ClassifierFree(Additive(), 3.0), 2.0)
    got = guided(u, t, Condition(torch.tensor([1, -1]), c))
    torch.testing.assert_close(got, u[:, 0] + 2 * c + 3 * torch.tensor([1.0, 0.0])[:, None, None])


def net(context, **options):
    torch.manual_seed(3)
    return UNet(1, 2, context=context, **{**LAYOUT, "context_bands": 8, **options})


def busy(network):
    """The network with weights where there are zeros at the start."""
    torch.manual_seed(4)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize("options", [{}, {"front": MDCT(4), "multiresolution": True}], ids=["waveform", "mdct"])
@pytest.mark.parametrize("route", ["concat", "attention", "both"])
def test_silence_is_no_context_and_a_context_counts(route, options):
    network = busy(net(route, **options))
    u, noise, c = torch.randn(2, 1, 62), torch.zeros(2), torch.randn(2, 1, 62)
    c[1] = 0
    without = network(u, noise)
    told = network(u, noise, Condition(audio=c))
    assert torch.equal(without, network(u, noise, Condition(audio=torch.zeros(2, 1, 200))))
    torch.testing.assert_close(told[1], without[1])
    assert (told[0] - without[0]).abs().max() > 1e-3
    assert network(u, noise, Condition(audio=c[..., :20])).shape == u.shape
    longer = network(u, noise, Condition(audio=torch.cat((c, c), -1)))
    same = torch.allclose(longer, told, atol=1e-6)
    assert same == (route == "concat")  # which is cut to the sound; attention hears all of it


def test_a_network_without_contexts_is_what_it_was():
    plain, hearing = net("none").state_dict(), net("attention").state_dict()
    assert not any(name.startswith(("hear", "cross")) for name in plain)
    assert all(torch.equal(value, hearing[name]) for name, value in plain.items())
    u, c = torch.randn(2, 1, 60), torch.randn(2, 1, 60)
    assert torch.equal(net("none")(u, torch.zeros(2)), net("none")(u, torch.zeros(2), Condition(audio=c)))


def pairs(route, count, g):
    """(x, c): white x with a noisy copy of each sample; or, for attention, one level that a longer context tells."""
    if route == "concat":
        x = 0.5 * torch.randn(count, 1, 64, generator=g)
        return x, x + 0.2 * torch.randn(count, 1, 64, generator=g)
    z = 0.5 * torch.randn(count, 1, 1, generator=g)
    x, c = (z + s * torch.randn(count, 1, n, generator=g) for s, n in ((0.1, 64), (0.5, 160)))
    return x, c


def exact_D(route, y, c, sigma, told):
    """E[x | y = x + σ n, c], or without c."""
    if route == "concat":
        precision = 1 / 0.25 + 1 / sigma**2 + told / 0.04
        return (y / sigma**2 + told * c / 0.04) / precision
    # z | y, c; then x | z, y.
    noise = 0.01 + sigma**2
    precision = 1 / 0.25 + 64 / noise + told * 160 / 0.25
    z = (64 * y.mean(2, keepdim=True) / noise + told * 160 * c.mean(2, keepdim=True) / 0.25) / precision
    return z + 0.01 / noise * (y - z)


@pytest.mark.parametrize("route", ["concat", "attention"])
def test_a_small_network_learns_the_exact_conditional_denoiser(route):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    front = {"compress": False} if route == "concat" else {}
    denoiser = Denoiser(net(route, **front), EDM(), sigma_data=0.5)
    optimizer, loss = torch.optim.AdamW(denoiser.parameters(), 3e-3), Loss()
    for step in range(150):
        x, c = pairs(route, 32, g)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 150)
        optimizer.zero_grad()
        loss.at(denoiser, x, loss.draw(denoiser.sde, x, g), Condition(audio=c)).mean().backward()
        optimizer.step()
    sigma = 1.0 if route == "concat" else 4.0  # where the context tells more than the sound itself
    x, c = pairs(route, 400, g)
    y = x + sigma * torch.randn(x.shape, generator=g)
    t = denoiser.sde.time(torch.full((400,), sigma**-2, dtype=torch.float64))
    with torch.no_grad():
        D = denoiser(y[:, None], t, Condition(audio=c))
    truth, untold = (exact_D(route, y, c, sigma, told) for told in (True, False))
    error, floor = ((one - truth).square().mean() for one in (D, untold))
    assert error < 0.2 * floor, (error, floor)


def test_contexts_are_hidden_in_training_alone_and_with_the_class():
    n = 4000
    batch = Batch(torch.zeros(n, 1, 4), torch.ones(n, dtype=torch.long), torch.arange(n), torch.ones(n, 1, 4))
    module = DiffusionModule(net("concat"), label_dropout=0.1, audio_dropout=0.4)
    condition = module.condition(batch, 0, list(range(n)), n)
    heard, classed = condition.audio.flatten(1).any(1), condition.label >= 0
    for share, expected in (
        ((~heard).float().mean(), 0.4),
        ((~heard & ~classed).float().mean(), 0.2 + 0.2 * 0.1),
        ((heard & ~classed).float().mean(), 0.6 * 0.1),
    ):
        assert abs(float(share) - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    # Of data without contexts the draws are what they were: of the class alone.
    plain = module.condition(Batch(*batch[:3]), 0, list(range(n)), n)
    assert plain.audio is None
    assert torch.equal(plain.label[heard], condition.label[heard])


def test_guidance_by_context_needs_a_network_that_hears():
    denoiser = Denoiser(net("none"), EDM())
    assert Guidance(weight=1.0, audio=2.0)(denoiser) is denoiser
    assert isinstance(Guidance(weight=1.0, audio=2.0)(Denoiser(net("concat"), EDM())), ContextFree)
    with pytest.raises(ValueError, match="audio_dropout = 0"):
        DiffusionModule(net("concat"), guidance=Guidance(audio=2.0), audio_dropout=0.0)
