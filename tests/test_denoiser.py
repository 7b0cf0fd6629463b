import math

import pytest
import torch
from torch import nn
from truth import GAUSSIAN, MIXTURE, PARAMETRIZATIONS, PROCESSES, Mixture, exact, times_of

from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.parametrization import Karras, V
from diffwave_sde.sde import EDM, VE, VP, apply, embed_waveform

SIGMA_DATA = 0.5


class Given(nn.Module):
    """A network that answers what it is told to, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, u, noise, condition=None):
        self.asked = u, noise, condition
        return self.answer


def draw(sde, t, length=50, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(len(t), 1, length, generator=g, dtype=torch.float64) * SIGMA_DATA
    eps = torch.randn(len(t), sde.blocks, 1, length, generator=g, dtype=torch.float64)
    return x, eps, sde.kernel(t).sample(x, eps)


def expand(a, x):
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


# What each network is trained to give, from its definition and without the parametrization under test.


def target_x0(kernel, x, eps, u):
    return x


def target_epsilon(kernel, x, eps, u):
    return eps[:, -1]


def target_score(kernel, x, eps, u):
    u = u.clone().requires_grad_()
    residual = (u - embed_waveform(kernel.M, x)).flatten(2).movedim(1, -1)  # (B, T, S)
    normal = torch.distributions.MultivariateNormal(torch.zeros(u.shape[1]).double(), scale_tril=kernel.L[:, None])
    (gradient,) = torch.autograd.grad(normal.log_prob(residual).sum(), u)
    return gradient[:, -1]


def target_mixed(kernel, x, eps, u):
    # Dockhorn et al. 2022, § 3.2: s = -v / Var(v) - ℓ α', the variance that of Gaussian data of the same power.
    cov = kernel.L @ kernel.L.mT + SIGMA_DATA**2 * kernel.M[:, :, None] * kernel.M[:, None, :]
    residual = target_score(kernel, x, eps, u) + u[:, -1] / expand(cov[:, -1, -1], x)
    return -residual * expand(kernel.L[:, -1, -1], x)


def effective(kernel, u):
    """x + n σ, what u says of x, and σ: by generalised least squares."""
    weights = torch.linalg.solve(kernel.L @ kernel.L.mT, kernel.M)
    precision = (weights * kernel.M).sum(-1)
    return (expand(weights / precision[:, None], u) * u).sum(1), precision.rsqrt()


def target_v(kernel, x, eps, u):
    y, sigma = effective(kernel, u)
    n = (y - x) / expand(sigma, x)
    angle = expand(sigma, x).atan()
    return angle.cos() * n - angle.sin() * x


def target_karras(kernel, x, eps, u):
    y, sigma = effective(kernel, u)
    s = expand(sigma, x)
    c_skip = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2)  # Karras et al. 2022, table 1
    c_out = s * SIGMA_DATA / (SIGMA_DATA**2 + s**2).sqrt()
    return (x - c_skip * y) / c_out


TARGETS = {
    "X0": target_x0,
    "Epsilon": target_epsilon,
    "Score": target_score,
    "MixedScore": target_mixed,
    "V": target_v,
    "Karras": target_karras,
    "Consistency": target_karras,  # with no least noise level, as by default
}


def tells_nothing(sde, name, t):
    """Underdamped, the velocity's noise loses sight of x where L⁻¹ M passes zero: nothing to be recovered there."""
    return name in ("Epsilon", "Score", "MixedScore") and sde.blocks == 2 and sde.friction < 1


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_the_exact_target_recovers_the_waveform(sde, name):
    assert name in TARGETS, f"write the target of {name} from its definition"
    t = times_of(sde)
    x, eps, u = draw(sde, t)
    target = TARGETS[name](sde.kernel(t), x, eps, u)
    D = Denoiser(Given(target), sde, PARAMETRIZATIONS[name], SIGMA_DATA)(u, t)
    torch.testing.assert_close(D, x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_float32_recovers_the_waveform_to_three_digits_of_its_noise(default_sde, name):
    sde = default_sde
    t = torch.tensor([sde.t_min, 2 * sde.t_min, 0.5], dtype=torch.float64)
    x, eps, u = draw(sde, t)
    target = TARGETS[name](sde.kernel(t), x, eps, u)
    kernel = sde.kernel(t)
    u32 = kernel.sample(x.float(), eps.float())
    denoiser = Denoiser(Given(target.float()), sde, PARAMETRIZATIONS[name], SIGMA_DATA)
    D = denoiser(u32, t)
    assert D.dtype == torch.float32
    error = (D.double() - x).square().mean((1, 2)).sqrt() * kernel.snr.sqrt()
    assert (error < 1e-3).all(), error
    # ... and so does the noise that it is read for.
    got = denoiser.eps(u32, t).double()
    assert ((got - eps).square().mean((1, 2, 3)).sqrt() < 1e-3).all()


class Rounded(nn.Module):
    """A network exact to the digits of float32."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, u, noise, condition=None):
        return self.net(u, noise.double(), condition).float()


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_the_score_in_float32_is_that_of_float64_to_three_digits_at_t_min(sde, parametrization, data):
    # At t_min, where D and u differ by less than float32 can tell, the score is read from the network and not from D.
    name = type(parametrization).__name__
    t = torch.full((1,), sde.t_min, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    eps = torch.randn(1, sde.blocks, 1, 500, generator=g, dtype=torch.float64)
    u = sde.kernel(t).sample(data.sample((1, 1, 500), g), eps)
    denoiser = exact(sde, parametrization, data)
    expected = denoiser.score(u, t)
    denoiser.net = Rounded(denoiser.net)
    got = denoiser.score(u.float(), t)
    assert got.dtype == torch.float32
    error = (got.double() - expected).square().mean((0, 2, 3)) / expected.square().mean((0, 2, 3))
    # A network that gives the waveform itself cannot say less than its own last digit, 6e-8 of it.
    limit = max(1e-3, float(6e-8 * sde.kernel(t).snr)) if name == "X0" else 1e-3
    assert (error.sqrt() < limit).all(), error.sqrt()


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_score_and_noise_are_exact(sde, parametrization, data):
    name = type(parametrization).__name__
    denoiser = exact(sde, parametrization, data)
    for t in (sde.t_min, 0.1, 0.5, sde.t_max):
        if tells_nothing(sde, name, t):
            continue
        g = torch.Generator().manual_seed(0)
        kernel = sde.kernel(torch.full((1,), t, dtype=torch.float64))
        x = data.sample((1, 1, 40), g)
        u = kernel.sample(x, torch.randn(1, sde.blocks, 1, 40, generator=g, dtype=torch.float64))
        expected = data.score(sde, u[0, :, 0].T, t).T[None, :, None]
        times = torch.full((1,), t, dtype=torch.float64)
        got = denoiser.score(u, times)
        scale = expected.square().mean((2, 3), keepdim=True).sqrt()
        torch.testing.assert_close(got / scale, expected / scale, rtol=1e-5, atol=1e-6)
        # ε = -Lᵀ score, whatever the data
        eps = -apply(kernel.L.mT, expected)
        torch.testing.assert_close(denoiser.eps(u, times), eps, rtol=1e-5, atol=1e-6)


def test_parametrizations_agree(sde):
    t = times_of(sde)
    u = draw(sde, t)[2]
    truth = MIXTURE.denoise(sde, u, t)
    for name, parametrization in PARAMETRIZATIONS.items():
        if not tells_nothing(sde, name, t):
            D = exact(sde, parametrization, MIXTURE)(u, t)
            torch.testing.assert_close(D, truth, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("sde", [EDM(), VE()], ids=["EDM", "VE"])
@pytest.mark.parametrize("sigma_data", [0.5, 0.25, 1.0])
def test_karras_is_table_1_of_edm(sde, sigma_data):
    t = times_of(sde)
    sigma = sde.sigma(t)
    skip, out = Karras()(sde.kernel(t), torch.tensor(sigma_data, dtype=torch.float64))
    torch.testing.assert_close(skip[:, 0], sigma_data**2 / (sigma**2 + sigma_data**2))
    torch.testing.assert_close(out, sigma * sigma_data / (sigma_data**2 + sigma**2).sqrt())
    net = Given(torch.zeros(len(t), 1, 4, dtype=torch.float64))
    u = torch.randn(len(t), 1, 1, 4, dtype=torch.float64)
    Denoiser(net, sde, Karras(), sigma_data)(u, t)
    asked, noise, _ = net.asked
    torch.testing.assert_close(asked, u[:, 0] / (sigma**2 + sigma_data**2).sqrt()[:, None, None])  # c_in
    torch.testing.assert_close(noise, (sigma / sigma_data).log() / 4)  # c_noise, in units of the data


def test_v_is_that_of_salimans_and_ho():
    # Appendix D: v = α ε - σ x, x = α z - σ v, for z = α x + σ ε.
    sde = VP()
    t = times_of(sde)
    skip, out = V()(sde.kernel(t), torch.tensor(0.5))
    torch.testing.assert_close(skip[:, 0], sde.log_mean(t).exp())
    torch.testing.assert_close(out, -sde.sigma(t))


def test_the_network_sees_unit_variance(sde):
    t = times_of(sde)
    _, _, u = draw(sde, t, length=20_000)
    net = Given(torch.zeros(len(t), 1, 1, dtype=torch.float64))
    Denoiser(net, sde, sigma_data=SIGMA_DATA)(u, t)
    assert net.asked[0].shape == (len(t), sde.blocks, 20_000)
    torch.testing.assert_close(net.asked[0].std(-1), torch.ones(len(t), sde.blocks).double(), rtol=0.03, atol=0)


def test_the_network_hears_how_much_noise_there_is(sde):
    t = times_of(sde)
    net = Given(torch.zeros(len(t), 1, 4))
    Denoiser(net, sde, sigma_data=0.25)(torch.zeros(len(t), sde.blocks, 1, 4), t)
    torch.testing.assert_close(net.asked[1].double(), -(sde.kernel(t).snr / 16).log() / 8, rtol=1e-6, atol=1e-6)
    assert (net.asked[1][3:].diff() > 0).all()


def test_the_condition_reaches_the_network(sde):
    net, condition = Given(torch.zeros(2, 1, 4)), Condition(label=torch.tensor([3, -1]))
    Denoiser(net, sde)(torch.zeros(2, sde.blocks, 1, 4), torch.tensor([0.2, 0.4]), condition)
    assert net.asked[2] is condition


def test_a_condition_is_cut_and_moved_whole():
    condition = Condition(label=torch.arange(4), audio=torch.randn(4, 1, 8))
    assert condition[1:3].label.tolist() == [1, 2]
    assert condition[1:3].audio.shape == (2, 1, 8)
    assert condition.to("meta").audio.device.type == "meta"
    assert Condition().to("meta")[0:1] == Condition()


def test_the_exact_denoiser_of_a_gaussian_is_wiener():
    # The yardstick itself, held to a formula of another kind: E[x|u] by the joint covariance of x and u.
    for sde in PROCESSES.values():
        kernel = sde.kernel(torch.tensor([0.3], dtype=torch.float64))
        M, cov = kernel.M[0], kernel.L[0] @ kernel.L[0].mT
        data = Mixture((1.0,), (0.2,), (0.7,))
        u = torch.randn(1, sde.blocks, 1, 6, dtype=torch.float64)
        gain = 0.49 * M @ (0.49 * M[:, None] * M + cov).inverse()
        expected = 0.2 + gain @ (u[0, :, 0] - 0.2 * M[:, None])
        torch.testing.assert_close(data.denoise(sde, u, torch.tensor([0.3]).double())[0, 0], expected)


def test_bf16_autocast_leaves_the_state_in_float32(sde):
    net = nn.Conv1d(sde.blocks, 1, 3, padding=1)

    class Wrapped(nn.Module):
        def forward(self, u, noise, condition=None):
            return net(u)

    with torch.autocast("cpu", torch.bfloat16):
        D = Denoiser(Wrapped(), sde)(torch.randn(2, sde.blocks, 1, 16), torch.tensor([0.1, 0.9]))
    assert D.dtype == torch.float32
    assert D.isfinite().all()


def test_sigma_data_is_saved_with_the_model():
    assert math.isclose(Denoiser(nn.Identity(), VP(), sigma_data=0.3).state_dict()["sigma_data"], 0.3, rel_tol=1e-6)
