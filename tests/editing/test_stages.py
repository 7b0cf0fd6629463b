"""Operations on windows with a cascade: each stage changes its band, and what comes out is of the right law."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffwave_sde.cascade import CascadeModel, Handover, idct, resize
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.editing import CascadeEditor, KnownSamples, make_editor
from diffwave_sde.editing.stages import coarser
from diffwave_sde.networks import UNet
from diffwave_sde.random import stream
from diffwave_sde.samplers import DPMSolverSDE, LogSNRGrid
from diffwave_sde.sde import EDM

LENGTH, RATES = 40, (2, 10, 40)
T = idct(torch.eye(LENGTH, dtype=torch.float64)).T  # a sound from its coefficients


class Bands(BaseDenoiser):
    """Exact for sounds with independent coefficients of the given variances, however many are told of."""

    def __init__(self, variance: Tensor):
        super().__init__()
        self.sde, self.sigma_data = EDM(), torch.tensor(0.3)
        self.variance = variance
        self.weak, self.net = None, nn.Module()
        self.net.classes = 0

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, None]:
        n = u.shape[-1]
        basis = idct(torch.eye(n, dtype=torch.float64)).T
        snr = float(self.sde.kernel(t[:1]).snr)
        precision = self.variance[:n].reciprocal() + snr
        known = snr * (u[:, 0, 0].double() @ basis)
        if condition is not None and condition.audio is not None:
            m, s = condition.audio.shape[-1], float(condition.level[0])
            below = idct(torch.eye(m, dtype=torch.float64)).T
            precision = precision + torch.nn.functional.pad(torch.full((m,), s**-2).double(), (0, n - m))
            known = known + torch.nn.functional.pad(condition.audio[:, 0].double() @ below / s**2, (0, n - m))
        return ((known / precision) @ basis.T)[:, None].to(u.dtype), None


VARIANCE = 0.3**2 * torch.exp(-torch.arange(LENGTH, dtype=torch.float64) / 12)


def model(handover: Handover | None = None, steps: int = 100) -> LoadedModel:
    small = {"channels": (8, 8), "factors": (2,), "blocks": 1, "embedding": 8, "heads": 2, "classes": 0}
    nets = UNet(1, **small), UNet(2, told=True, **small), UNet(2, told=True, **small)
    module = CascadeModel(*nets, (5, 4), sampler=DPMSolverSDE(steps, LogSNRGrid(), eta=1.0), handover=handover)
    module.stages = nn.ModuleList(Bands(VARIANCE) for _ in RATES)
    module.steps_trained += 1
    return LoadedModel(module.eval(), ("sound",), 44_100, LENGTH, 0.0, 0, Path("cascade.ckpt"))


def sound(key: int = 1) -> Tensor:
    return (T @ (VARIANCE.sqrt() * torch.randn(LENGTH, generator=stream(key)).double())).float()


@pytest.mark.parametrize("handover", [Handover(0.05), Handover(0.2, True)], ids=str)
def test_a_variation_is_of_the_law_of_what_the_noised_sound_can_have_been(handover):
    x, count = sound(), 3000
    editor = make_editor(model(handover), batch_size=count)
    assert isinstance(editor, CascadeEditor)
    made = editor.vary(x, 0.5, range(count)).double() @ T  # σ = σ_data = 0.3
    gain = VARIANCE / (VARIANCE + 0.3**2)
    mean, variance = gain * (x.double() @ T), gain**2 * 0.3**2 + VARIANCE * (1 - gain)
    white = (made - mean) / variance.sqrt()
    assert abs(float(count * white.mean(0).square().sum() - LENGTH) / math.sqrt(2 * LENGTH)) < 3
    off = count**0.5 * (white.T @ white / count - torch.eye(LENGTH))
    entries = torch.cat((off[torch.triu_indices(LENGTH, LENGTH, 1).unbind()], off.diagonal() / math.sqrt(2)))
    assert abs(float(entries.square().sum() - len(entries)) / math.sqrt(2 * len(entries))) < 3


def test_at_the_ends_a_variation_is_the_sound_and_a_new_one():
    one = model(steps=5)
    editor = make_editor(one, seed=3)
    new = one.module.sample(LENGTH, torch.tensor([-1]), one.module.generators([4], 3))[0]
    assert torch.equal(editor.vary(sound(), 1.0, [4]), new)
    assert torch.equal(editor.vary(sound(), 0.0, [4])[0], sound())


def test_what_is_known_is_kept_and_told_to_the_lower_stages():
    free = torch.arange(LENGTH) >= 20
    made = make_editor(model(steps=50)).inpaint(sound(), free, range(3))
    assert torch.equal(made[:, :20], sound()[:20].expand(3, -1))
    assert not torch.equal(made[0], made[1])
    # 4 samples of the rate of ten lie between what is free and what is known there; at the rate of two all is free.
    known = coarser(KnownSamples(sound(), torch.arange(LENGTH) >= 32), 10)
    assert known.free.tolist() == [False] * 4 + [True] * 6
    assert torch.equal(known.x, resize(sound(), 10))
    assert bool(coarser(KnownSamples(sound(), torch.arange(LENGTH) >= 32), 2).free.all())


def test_what_a_cascade_cannot_change_is_refused_in_one_line():
    editor, free = make_editor(model(steps=2)), torch.arange(LENGTH) >= 20
    for asked in (
        lambda: editor.inpaint(sound(), free, method="posterior"),
        lambda: editor.interpolate(sound(), sound(2), 3),
        lambda: editor.encode(sound()),
        lambda: editor.given(LENGTH, lambda denoiser: denoiser),
    ):
        with pytest.raises(ValueError, match=r"cascade\.ckpt is of a cascade, which cannot do that yet; "):
            asked()
    assert len(editor.interpolate(sound(), sound(2), 4, "noise")) == 4
