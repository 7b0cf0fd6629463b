"""Operations on windows: what they leave is the sound itself, what they make is of the law that it should be of."""

import math
from pathlib import Path

import pytest
import torch
from truth import MIXTURE, SMOOTH, Correlated, exact

from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.editing import Editor, LinearGaussian, LinearPosterior
from diffwave_sde.editing.projection import KnownSamples
from diffwave_sde.model import Model
from diffwave_sde.networks import UNet
from diffwave_sde.parametrization import Karras
from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM, DPMSolverSDE, GottaGoFast, LogSNRGrid, RePaint
from diffwave_sde.sde import CLD, EDM, VP

LENGTH = 300
PROCESSES = {"EDM": EDM, "VP": VP, "CLD": CLD}


def model(sde, sampler=None, mu: float = 0.0) -> LoadedModel:
    """A model of independent samples, with the exact denoiser."""
    net = UNet(sde.blocks, 0, channels=(8, 8), factors=(5,), blocks=1, embedding=8, heads=2)
    module = Model(net, sde, sampler=sampler or DDIM(30, eta=1.0), sigma_data=MIXTURE.std)
    module.denoiser = exact(sde, Karras(), MIXTURE, MIXTURE.std)
    module.denoiser.net.classes = 0
    return LoadedModel(module.eval(), ("sound",), 44_100, LENGTH, mu, 0, Path("model.ckpt"))


def sound(key: int = 1) -> torch.Tensor:
    return MIXTURE.sample((LENGTH,), stream(key)).float()


def plain(one: LoadedModel, number: int = 0, seed: int = 0) -> torch.Tensor:
    return one.module.sample(LENGTH, torch.tensor([-1]), one.module.generators([number], seed))[0, 0].float()


@pytest.mark.parametrize("sde", PROCESSES)
def test_the_known_part_is_kept_and_the_rest_is_of_the_law_of_sounds(sde):
    one = model(PROCESSES[sde](), DDIM(150, LogSNRGrid(), eta=1.0))
    free = torch.arange(LENGTH) >= 100
    made = Editor(one).inpaint(sound(), free, range(20))
    assert torch.equal(made[:, ~free], sound()[~free].expand(20, -1))
    rest = made[:, free].double()
    # Samples that are independent of one another are inpainted exactly: 4,000 of them, their mean and variance.
    assert abs(float(rest.mean() - (MIXTURE.weights * MIXTURE.means).sum())) < 4 * MIXTURE.std / math.sqrt(4000)
    assert float(rest.std()) == pytest.approx(MIXTURE.std, rel=0.05)
    assert not torch.equal(made[0], made[1])


def test_all_made_anew_is_the_plain_sampler_and_nothing_is_the_sound():
    one, x = model(VP()), sound()
    editor = Editor(one, seed=3)
    assert torch.equal(editor.inpaint(x, torch.ones(LENGTH, dtype=torch.bool), [5])[0], plain(one, 5, 3))
    assert torch.equal(editor.inpaint(x, torch.zeros(LENGTH, dtype=torch.bool), [5, 6]), x.expand(2, -1))


@pytest.mark.parametrize("sde", PROCESSES)
def test_variations_go_from_the_sound_itself_to_a_new_one(sde):
    one, x = model(PROCESSES[sde](), DDIM(60)), sound()
    editor = Editor(one)
    assert torch.equal(editor.vary(x, 0.0, [0])[0], x)
    assert torch.equal(editor.vary(x, 1.0, [0])[0], plain(one))
    far = [float((editor.vary(x, s, range(4)) - x).square().mean().sqrt()) for s in (0.05, 0.3, 0.7)]
    assert far[0] < 0.3 * MIXTURE.std
    assert far == sorted(far)
    kept = editor.vary(x, 0.9, range(3), torch.arange(LENGTH) >= 100)
    assert torch.equal(kept[:, :100], x[:100].expand(3, -1))
    assert not torch.equal(kept[0, 100:], x[100:])
    with pytest.raises(ValueError, match=r"strength = 1.5 must lie between 0, the sound itself, and 1"):
        editor.vary(x, 1.5)


def test_a_result_is_the_same_however_many_are_made():
    x = sound()
    for editor in (Editor(model(VP())), Editor(model(VP()), batch_size=2)):
        many = editor.vary(x, 0.6, range(5))
        torch.testing.assert_close(editor.vary(x, 0.6, [3])[0], many[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space", [pytest.param("latent", marks=pytest.mark.slow), "noise"])
def test_the_ends_of_the_way_between_two_sounds_are_the_sounds(space):
    editor = Editor(model(VP()), sampler=DDIM(15))
    a, b = sound(1), sound(2)
    way = editor.interpolate(a, b, 5, space)
    assert torch.equal(way[0], a)
    assert torch.equal(way[-1], b)
    assert len(way) == 5
    steps = way.diff(dim=0).square().mean(1).sqrt()
    assert float(steps.max()) < 0.8 * float((a - b).square().mean().sqrt())  # no leap
    assert torch.equal(editor.interpolate(a, a, 3, space), a.expand(3, -1))
    with pytest.raises(ValueError, match="1 steps: there are 2 ends"):
        editor.interpolate(a, b, 1)


@pytest.mark.parametrize("sde", ["EDM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("VP", "CLD"))])
def test_latents_lead_back_to_their_sound(sde):
    editor, x = Editor(model(PROCESSES[sde]()), sampler=DDIM(40)), sound()
    error = (editor.decode(editor.encode(x))[0] - x).square().mean().sqrt() / x.square().mean().sqrt()
    assert float(error) < 5e-3  # in float32; in float64 it is the tolerance that counts, test_latents.py


def test_a_longer_sound_begins_with_the_sound():
    x = sound()
    made = Editor(model(VP(), DDIM(6))).extend(x, 250, 1000, [0, 1])
    assert made.shape == (2, 1000)
    assert torch.equal(made[:, :250], x[:250].expand(2, -1))
    assert not torch.equal(made[0], made[1])
    assert float(made[:, 900:].std()) > 0.3 * MIXTURE.std


@pytest.mark.parametrize("sde", PROCESSES)
def test_a_noisy_sound_is_denoised_by_exact_posterior_sampling(sde):
    # Samples are independent, so the posterior of each is a mixture of known mean and variance.
    noise, one = 0.3, model(PROCESSES[sde](), DDIM(400, LogSNRGrid(), eta=1.0))
    z = torch.full((LENGTH,), -0.25)
    precision = MIXTURE.stds**-2 + noise**-2
    means = (MIXTURE.means * MIXTURE.stds**-2 - 0.25 * noise**-2) / precision
    spread = MIXTURE.stds**2 + noise**2
    odds = MIXTURE.weights * (-0.5 * (-0.25 - MIXTURE.means) ** 2 / spread).exp() / spread.sqrt()
    odds = odds / odds.sum()
    mean = float((odds * means).sum())
    std = math.sqrt(float((odds * (1 / precision + means**2)).sum()) - mean**2)

    def found(level: float) -> tuple[float, float]:
        x = Editor(one).denoise(z, level, range(10)).double()
        return (float(x.mean()) - mean) / (std / math.sqrt(x.numel())), float(x.std()) / std

    error, ratio = found(noise)
    assert abs(error) < 4
    assert ratio == pytest.approx(1, abs=0.06)
    error, ratio = found(2 * noise)  # told the wrong level of noise
    assert abs(error) > 4 or abs(ratio - 1) > 0.1


def test_noise_of_a_companded_sound_is_not_white():
    with pytest.raises(ValueError, match="is of companded sounds"):
        Editor(model(VP(), mu=8.0)).denoise(sound(), 0.1)


def test_adaptive_samplers_are_refused_by_name():
    with pytest.raises(
        ValueError, match="GottaGoFast chooses its steps by what it meets: to change a sound takes steps"
    ):
        Editor(model(VP()), sampler=GottaGoFast())


KNOWN = torch.tensor([True, True, False, True, False, False, False, True])


def test_repainting_comes_nearer_to_the_conditional_law_and_the_exact_correction_reaches_it():
    sde, z = EDM(), torch.tensor([0.3, 0.5, 0.0, -0.2, 0.0, 0.0, 0.0, 0.4], dtype=torch.float64)
    part = SMOOTH[:, KNOWN]
    gain = part @ torch.linalg.inv(part[KNOWN])
    mean, covariance = gain @ z[KNOWN], SMOOTH - gain @ part.mT
    free = ~KNOWN
    count = 800

    def off(wrapper, sampler) -> float:
        """How many standard errors the worst of the means is off."""
        u = sde.prior((count, 1, 8), stream(1)).double()
        x = sampler(wrapper, u, generator=stream(2))[:, 0]
        torch.testing.assert_close(x[:, KNOWN], z[KNOWN].expand(count, -1), rtol=0, atol=1e-3)
        error = (x.mean(0) - mean).abs() / (covariance.diagonal() / count).sqrt()
        return float(error[free].max())

    replaced = KnownSamples(z, free)(Correlated(sde))
    posterior = LinearPosterior(
        Correlated(sde), LinearGaussian(lambda x: x[..., KNOWN], z[KNOWN][None, None]), iterations=5, damping=1e-6
    )
    plain, again = off(replaced, DPMSolverSDE(60)), off(replaced, RePaint(60, None, DDIM(eta=1.0), 10))
    assert off(posterior, DPMSolverSDE(80)) < 3.5
    assert again < 0.7 * plain
    assert plain > 5
