"""The learning rate follows its shape, whatever the length of the training and wherever it went on."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import UNet
from diffwave_sde.optim import MuonAdamW, WarmupDecay


def optimizer(rate=1.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_up_on_and_down():
    found = rates(WarmupDecay(optimizer(2.0), warmup=4, decay=0.5, total=20), 20)
    assert found[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert found[5:11] == [2.0] * 6
    assert found[10:] == pytest.approx([2 - 0.2 * k for k in range(10)])


def test_without_an_end_it_stays_up():
    scheduler = WarmupDecay(optimizer(), warmup=0)
    scheduler.set_total_steps(float("inf"))
    assert rates(scheduler, 50) == [1.0] * 50
    assert rates(WarmupDecay(optimizer(), warmup=0, decay=0, total=5), 5) == [1.0] * 5


def test_what_was_given_is_not_overruled():
    scheduler = WarmupDecay(optimizer(), warmup=0, decay=1, total=10)
    scheduler.set_total_steps(1000)
    assert rates(scheduler, 10) == pytest.approx([1 - k / 10 for k in range(10)])


def test_a_training_that_goes_on_may_be_longer():
    short, whole = WarmupDecay(optimizer(), 2, 0.5, total=10), rates(WarmupDecay(optimizer(), 2, 0.5, total=20), 20)
    rates(short, 10)
    longer = WarmupDecay(optimizer(), 2, 0.5, total=20)
    longer.load_state_dict(short.state_dict())
    assert longer.total == 20
    longer.optimizer.step()
    longer.step()
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(whole[11])


@pytest.mark.parametrize(
    ("options", "named"), [({"warmup": -1}, "warmup"), ({"decay": 2}, "decay"), ({"total": 0}, "total")]
)
def test_nonsense_is_refused(options, named):
    with pytest.raises(ValueError, match=f"^{named} = "):
        WarmupDecay(optimizer(), **options)


@pytest.mark.parametrize(("steps", "total"), [(40, 40), (-1, None)])
def test_the_trainer_says_how_long(steps, total):
    module = DiffusionModule(
        UNet(channels=[4, 4], factors=[2], bottleneck="none"),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        scheduler=lambda o: WarmupDecay(o, 3),
    )
    assert isinstance(module, LightningModule)
    module._trainer = Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, barebones=True)
    scheduler = module.configure_optimizers()[1][0]["scheduler"]
    assert scheduler.total == total


def test_schedules_reach_both_rates():
    muon = MuonAdamW([torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(4, 3, 3))], lr=0.1, ratio=3.0)
    scheduler = WarmupDecay(muon, 0, 1.0, total=4)
    muon.step()
    scheduler.step()
    assert [group["lr"] for group in muon.param_groups] == pytest.approx([0.075, 0.225])
