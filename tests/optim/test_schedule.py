"""The learning rate follows its shape, whatever the length of the training and wherever it went on."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from diffwave_sde.data.clips import Batch
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


def resumed(old, steps, total, warmup=4):
    """The schedule `old` after so many steps, and the one that goes on from its state with `total` steps."""
    before = rates(old, steps)
    new = WarmupDecay(optimizer(2.0), warmup, 0.5, total)
    new.optimizer.load_state_dict(old.optimizer.state_dict())
    new.load_state_dict(old.state_dict())
    return before, new


@pytest.mark.parametrize("stopped", [13, 20])  # in the fall, and at its end
def test_a_training_that_goes_on_for_longer_warms_up_from_the_rate_that_it_had_reached(stopped):
    whole = rates(WarmupDecay(optimizer(2.0), 4, 0.5, total=100), 100)
    _, new = resumed(WarmupDecay(optimizer(2.0), 4, 0.5, total=20), stopped, 100)
    reached = 2.0 * (20 - stopped) / 10
    assert f"fallen to {reached:.3g} by step {stopped}" in new.notice
    assert f"to 2 at step {stopped + 4}" in new.notice
    after = rates(new, 100 - stopped)
    assert after[:5] == pytest.approx([reached + (2.0 - reached) * k / 4 for k in range(5)])
    assert after[4:] == whole[stopped + 4 :]
    # Nor does it leap where it is stopped within that rise, and goes on with the same number of steps.
    _, middle = resumed(WarmupDecay(optimizer(2.0), 4, 0.5, total=20), stopped, 100)
    start, again = resumed(middle, 2, 100)
    assert again.notice is None
    assert start + rates(again, 98 - stopped) == after


@pytest.mark.parametrize(("stopped", "total"), [(2, 20), (13, 20), (20, 20), (8, 100)])
def test_a_training_that_goes_on_with_as_many_steps_or_before_its_fall_keeps_its_rates(stopped, total):
    whole = rates(WarmupDecay(optimizer(2.0), 4, 0.5, total), total)
    before, new = resumed(WarmupDecay(optimizer(2.0), 4, 0.5, total=20), stopped, total)
    assert new.notice is None
    assert before + rates(new, total - stopped) == whole


def test_one_line_tells_of_the_new_warm_up_and_the_rate_does_not_leap(tmp_path, capsys):
    def run(steps, ckpt=None):
        module = DiffusionModule(
            UNet(channels=[4, 4], factors=[2], bottleneck="none"),
            optimizer=lambda p: torch.optim.SGD(p, lr=1e-3),
            scheduler=lambda o: WarmupDecay(o, 2, 0.5),
            sigma_data=0.5,
        )
        found = []
        module.on_train_batch_start = lambda *_: found.append(module.optimizers().param_groups[0]["lr"])
        batches = [Batch(torch.zeros(2, 1, 64), torch.zeros(2).long(), torch.arange(2))] * 16
        trainer = Trainer(
            accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None), ckpt_path=ckpt)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return found

    first = run(8)
    assert "learning rate" not in capsys.readouterr().out
    then = run(16, tmp_path / "last.ckpt")
    said = [line for line in capsys.readouterr().out.splitlines() if "learning rate" in line]
    assert said == [
        "the learning rate had fallen to 0 by step 8; in the longer training it rises again, to 0.00075 at step 10"
    ]
    assert [1e3 * rate for rate in first + then] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0.4375, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    )


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
    module.trainer = Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, barebones=True)
    scheduler = module.configure_optimizers()[1][0]["scheduler"]
    assert scheduler.total == total


def test_schedules_reach_both_rates():
    muon = MuonAdamW([torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(4, 3, 3))], lr=0.1, ratio=3.0)
    scheduler = WarmupDecay(muon, 0, 1.0, total=4)
    muon.step()
    scheduler.step()
    assert [group["lr"] for group in muon.param_groups] == pytest.approx([0.075, 0.225])
