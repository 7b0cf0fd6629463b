"""A sound that is made on a circle: its last sample meets its first as any two neighbours meet."""

import pytest
import torch
from torch import Tensor

from diffwave_sde.data.clips import Batch
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.looping import Looped, turned
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import UNet
from diffwave_sde.networks.blocks import circular_features
from diffwave_sde.samplers import DDIM, LogSNRGrid
from diffwave_sde.sde import EDM, VP

LENGTH = 48
APART = torch.arange(LENGTH, dtype=torch.float64)
LAW = 0.3**2 * torch.exp(-0.5 * ((APART[:, None] - APART) / 3) ** 2) + 1e-4 * torch.eye(LENGTH)


class Window(BaseDenoiser):
    """Exact for windows of an endless sound whose samples are like their neighbours; it knows of no circle."""

    def __init__(self, sde, law: Tensor = LAW):
        super().__init__()
        self.sde, self.sigma_data, self.law = sde, torch.tensor(0.3), law.double()

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, None]:
        kernel = self.sde.kernel(t[:1])
        gain = self.law @ (self.law + torch.eye(LENGTH) / float(kernel.snr)).inverse()
        return ((u[:, 0, 0].double() / float(kernel.M)) @ gain.T)[:, None].to(u.dtype), None


def steps(denoiser, count: int = 2000) -> Tensor:
    """The mean square of each sample's distance to the next, (LENGTH,), the last one's to the first."""
    g = torch.Generator().manual_seed(0)
    u = denoiser.sde.prior((count, 1, LENGTH), g, torch.device("cpu"))
    x = DDIM(60, LogSNRGrid(), eta=1.0)(denoiser, u, None, g)[:, 0].double()
    return (x - x.roll(-1, 1)).square().mean(0)


@pytest.mark.parametrize("sde", [EDM(), VP()], ids=["EDM", "VP"])
def test_the_last_sample_meets_the_first_and_all_others_stay_as_they_were(sde):
    expected = float(2 * (LAW[0, 0] - LAW[0, 1]))
    plain, looped = steps(Window(sde)), steps(Looped(Window(sde)))
    assert float(plain[-1]) > 10 * expected
    assert float(looped[-1]) == pytest.approx(float(looped[:-1].mean()), rel=0.15)
    assert float(looped[:-1].mean()) == pytest.approx(float(plain[:-1].mean()), rel=0.15)


def test_sounds_that_are_the_same_all_round_are_left_as_they_are():
    around = torch.minimum(APART, LENGTH - APART)
    law = torch.stack([(0.3**2 * torch.exp(-around / 4)).roll(i) for i in range(LENGTH)])
    one = Window(EDM(), law)
    u, t = torch.randn(5, 1, 1, LENGTH, dtype=torch.float64), torch.linspace(0.1, 2, 5, dtype=torch.float64)
    for i in range(5):
        torch.testing.assert_close(Looped(one)(u, t[i].expand(5)), one(u, t[i].expand(5)), rtol=1e-9, atol=1e-12)


class Beat(BaseDenoiser):
    """Sounds that are one pattern, from where the loop begins, by what it is told of how far it is turned."""

    pattern = torch.randn(1, 1, LENGTH, generator=torch.Generator().manual_seed(2))

    def __init__(self, sde):
        super().__init__()
        self.sde, self.sigma_data = sde, torch.tensor(0.3)

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, None]:
        turn = torch.zeros(len(u)) if condition is None or condition.turn is None else condition.turn
        return turned(self.pattern.expand(len(u), -1, -1), turn), None


@pytest.mark.parametrize("own", [None, torch.tensor([0.25, 0.5])], ids=["from its beginning", "turned"])
def test_a_network_is_told_where_a_loop_begins_at_every_step(own):
    one = Beat(EDM())
    u = torch.randn(2, 1, 1, LENGTH)
    asked = None if own is None else Condition(turn=own)
    expected = turned(one.pattern.expand(2, -1, -1), torch.zeros(2) if own is None else own)
    assert torch.equal(Looped(one)(u, torch.tensor([0.3, 0.9], dtype=torch.float64), asked), expected)
    g = torch.Generator().manual_seed(0)
    made = DDIM(5, LogSNRGrid())(Looped(one), u, asked, g)
    torch.testing.assert_close(made, expected, rtol=0, atol=0.01)


def test_features_of_a_circle_are_turned_with_it():
    like = torch.zeros(1)
    plain = circular_features(40, 6, None, like)
    told = circular_features(40, 6, torch.tensor([0.0, 0.25, 0.9]), like)
    for features, frames in zip(told, (0, 10, 36), strict=True):
        torch.testing.assert_close(features, plain[0].roll(frames, -1), rtol=0, atol=1e-5)


def test_a_training_turns_loops_and_tells_by_how_much():
    net = UNet(classes=2, channels=(8, 8), factors=(2,), blocks=1, heads=1, position=4, circular=True)
    module = DiffusionModule(net=net)
    batch = Batch(torch.randn(4, 1, LENGTH), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    x, condition, _ = module.replay(batch, 3)
    assert len(condition.turn.unique()) == 4
    assert torch.equal(x, turned(batch.audio, condition.turn))
    assert not torch.equal(x, batch.audio)
    again, same, _ = module.replay(batch, 3)
    assert torch.equal(again, x)
    assert torch.equal(same.turn, condition.turn)
    assert module.fixed_noise_loss(batch)[0].isfinite().all()
