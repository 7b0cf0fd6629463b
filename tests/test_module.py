"""The module: what a training step draws, measures and keeps."""

import copy
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from truth import GAUSSIAN, PROCESSES, Oracle

from diffwave_sde.data.clips import Batch
from diffwave_sde.guidance import Guidance
from diffwave_sde.loss import HybridLoss, ImportanceTime, LikelihoodWeight, Loss, UniformTime
from diffwave_sde.model import check_fit
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import UNet
from diffwave_sde.samplers import DDIM, DefaultSampler, DPMSolverSDE, LogNormalGrid
from diffwave_sde.sde import CLD, VDM, VE, VP
from diffwave_sde.training import NoiseBuckets


def small(classes: int = 3, **options) -> UNet:
    return UNet(classes=classes, channels=[8, 8], factors=[5], embedding=8, heads=2, **options)


def batch(rows: range) -> Batch:
    audio = torch.randn(len(rows), 1, 100, generator=torch.Generator().manual_seed(rows.start))
    return Batch(audio, torch.tensor([r % 3 for r in rows]), torch.tensor(list(rows)))


def test_ranks_draw_together_what_one_process_draws_alone():
    module = DiffusionModule(small())
    whole = batch(range(8))
    _, condition, draw = module.replay(whole, counter=7)
    for rank in range(2):
        share = Batch(*(field[rank::2] for field in whole if field is not None))
        _, own, part = module.replay(share, counter=7, rank=rank, world=2)
        assert torch.equal(part.t, draw.t[rank::2])
        assert torch.equal(part.eps, draw.eps[rank::2])
        assert torch.equal(own.label, condition.label[rank::2])


def test_accumulated_batches_draw_together_what_one_batch_draws():
    module = DiffusionModule(small())
    whole = batch(range(8))
    _, condition, draw = module.replay(whole, counter=7)
    for rank, part in ((r, p) for r in range(2) for p in range(2)):
        rows = [4 * part + rank, 4 * part + rank + 2]
        share = Batch(*(field[rows] for field in whole if field is not None))
        _, own, drawn = module.replay(share, counter=2 * 7 + part, rank=rank, world=2, parts=2)
        assert torch.equal(drawn.t, draw.t[rows])
        assert torch.equal(drawn.eps, draw.eps[rows])
        assert torch.equal(own.label, condition.label[rows])


def test_a_step_draws_anew_and_a_replayed_one_draws_the_same():
    module = DiffusionModule(small())
    first, again, other = (module.replay(batch(range(4)), counter=c)[2] for c in (1, 1, 2))
    assert torch.equal(first.eps, again.eps)
    assert not torch.equal(first.eps, other.eps)
    assert not torch.equal(first.t, other.t)


def test_labels_are_hidden_at_the_stated_rate():
    module = DiffusionModule(small(), label_dropout=0.25)
    labels = torch.cat([module.replay(batch(range(64)), counter=c)[1].label for c in range(40)])
    # 2,560 draws: four standard errors are 0.034.
    assert abs((labels < 0).float().mean().item() - 0.25) < 0.035
    assert labels.max() == 2


def test_dropout_too_is_a_function_of_the_step():
    module = DiffusionModule(small(dropout=0.5)).train()
    for parameter in module.parameters():  # layers that start at zero would hide it
        torch.nn.init.normal_(parameter, std=0.1)

    def loss(counter):
        x, condition, draw = module.replay(batch(range(4)), counter)
        return module.loss.at(module.denoiser, x, draw, condition)

    torch.manual_seed(1)
    first = loss(3)
    torch.manual_seed(2)
    assert torch.equal(loss(3), first)


def test_buckets_hold_the_mean_loss_of_each_decade_of_noise():
    buckets = NoiseBuckets()
    buckets.update(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0.02, 0.05, 30.0]))
    buckets.update(torch.tensor([5.0]), torch.tensor([0.011]))
    assert {k: v.item() for k, v in buckets.compute().items()} == {"sigma=1e-2": 3.0, "sigma=1e+1": 10.0}


def test_buckets_take_noise_beyond_their_ends():
    buckets = NoiseBuckets()
    buckets.update(torch.tensor([1.0, 2.0]), torch.tensor([1e-9, 1e9]))
    assert sorted(v.item() for v in buckets.compute().values()) == [1.0, 2.0]


def test_a_network_of_other_inputs_than_the_process_has_blocks_is_refused():
    with pytest.raises(ValueError, match=r"1 input.*CLD has 2 blocks"):
        DiffusionModule(small(), sde=CLD())


@pytest.mark.parametrize("options", [{"label_dropout": 1.5}, {"sigma_data": -1.0}, {"val_draws": 0}])
def test_values_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DiffusionModule(small(), **options)


def test_a_weak_network_learns_beside_the_other_and_leaves_it_alone():
    net, weak = small(), small()
    for one in (net, weak):
        for parameter in one.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    alone, both = DiffusionModule(net), DiffusionModule(copy.deepcopy(net), weak=weak)
    assert {id(p) for p in weak.parameters()} <= {id(p) for p in both.denoiser.parameters()}
    for module in (alone, both):
        module.log = module.log_dict = lambda *a, **k: None
        module.trainer = SimpleNamespace(
            log_every_n_steps=0, world_size=1, accumulate_grad_batches=1,
            global_rank=0,
        )  # fmt: skip
        module.training_step(batch(range(8)), 0).backward()
    for one, other in zip(alone.denoiser.net.parameters(), both.denoiser.net.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert torch.equal(alone.last["losses"], both.last["losses"])
    # It is taught by its own loss on the same draws: every fourth place of the batch, in four steps all of them.
    seen = []
    both.batches, both.weak_every = 0, 4
    for step in range(5):
        weak.zero_grad()
        both.training_step(batch(range(8)), 0).backward()
        grads = [p.grad.clone() for p in weak.parameters()]
        weak.zero_grad()
        x, condition, draw = both.replay(batch(range(8)), step)
        places = [step % 4, step % 4 + 4]
        both.loss.at(both.denoiser.weak, x[places], draw[places], condition[places]).mean().backward()
        for p, grad in zip(weak.parameters(), grads, strict=True):
            torch.testing.assert_close(p.grad, grad)
        assert max(float(g.abs().max()) for g in grads) > 0
        seen += places
    assert sorted(seen[:8]) == list(range(8))


def test_a_weak_network_learns_the_same_from_any_grouping_of_a_step(monkeypatch):
    module = DiffusionModule(small(), weak=small(), weak_every=4)
    weak = list(module.denoiser.weak.parameters())
    for parameter in weak:
        torch.nn.init.normal_(parameter, std=0.1)
    module.log = module.log_dict = lambda *a, **k: None
    rows = batch(range(8))

    def gradient(world, parts, step):
        """As Lightning makes it: the mean over processes of the mean over the batches of a step."""
        total = [torch.zeros_like(p) for p in weak]
        for rank, part in ((r, p) for r in range(world) for p in range(parts)):
            size = 8 // (world * parts)
            share = Batch(
                *(
                    field[part * size * world + rank : (part + 1) * size * world : world]
                    for field in rows
                    if field is not None
                )
            )
            monkeypatch.setattr(module, "_share", lambda rank=rank: (rank, world, parts))
            counter = step * parts + part
            module.batches = counter + 1
            module.zero_grad()
            x, condition, draw = module.prepare_step(share, counter)
            module._weak_loss(x, draw, condition).backward()
            for sum_, p in zip(total, weak, strict=True):
                sum_ += p.grad / (world * parts)
        return total

    for step in (0, 3):
        alone = gradient(1, 1, step)
        for world, parts in ((2, 1), (1, 2), (2, 2), (8, 1), (4, 2)):
            for one, other in zip(alone, gradient(world, parts, step), strict=True):
                torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_a_weak_network_beside_a_learned_process_is_refused():
    with pytest.raises(ValueError, match=r"--model\.weak=null"):
        DiffusionModule(small(), sde=VDM(), loss=Loss(UniformTime(), LikelihoodWeight()), weak=small())


def test_a_weak_network_of_other_inputs_than_the_process_has_blocks_is_refused():
    with pytest.raises(ValueError, match="weak network takes 1 input"):
        DiffusionModule(UNet(2, 3, channels=[8, 8], factors=[5], embedding=8, heads=2), sde=CLD(), weak=small())


def test_sounds_do_not_depend_on_what_is_made_beside_them():
    module = DiffusionModule(small(), sde=VP()).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    label = torch.tensor([0, 1, 2])
    together = module.sample(100, label, module.generators([0, 1, 2]))
    alone = module.sample(100, label[2:], module.generators([2]))
    assert torch.allclose(together[2:], alone, atol=1e-5)
    assert not torch.allclose(together[:1], together[1:2], atol=1e-2)


def test_a_process_that_learns_is_taught_by_the_likelihood_alone():
    bound = Loss(UniformTime(), LikelihoodWeight())
    module = DiffusionModule(small(), sde=VDM(), loss=bound)
    assert {id(p) for p in module.denoiser.sde.parameters()} <= {
        id(p) for group in module.configure_optimizers().param_groups for p in group["params"]
    }
    for loss in (Loss(), Loss(UniformTime()), Loss(weight=LikelihoodWeight()), HybridLoss(), None):
        with pytest.raises(ValueError, match=r"VDM is learned.*LikelihoodWeight.*UniformTime") as error:
            DiffusionModule(small(), sde=VDM(), loss=loss)
        assert "\n" not in str(error.value)
    DiffusionModule(small(), sde=VDM().requires_grad_(False))  # a fixed one takes any


def test_validation_draws_its_times_from_the_law_that_is_meant():
    module = DiffusionModule(small(), sde=VP(), loss=Loss(ImportanceTime(UniformTime(), buckets=4, history=1)))
    seen = []
    module.loss.at = lambda denoiser, x, draw, condition: seen.append(draw) or torch.zeros(len(x))
    module.log = lambda *_, **__: None
    module._evaluate(batch(range(4)), "val")
    module.loss.time.observe(VP(), torch.linspace(0.01, 0.99, 40), torch.linspace(0, 9, 40))
    module._evaluate(batch(range(4)), "val")
    assert torch.equal(seen[0].t, seen[1].t)
    assert torch.equal(seen[0].eps, seen[1].eps)
    assert seen[1].weight is None


def test_validation_with_several_draws_takes_other_ones_each_time_and_their_mean(monkeypatch):
    one, several = (DiffusionModule(small(), val_draws=n) for n in (1, 4))
    clips = batch(range(3))
    draws = [several.fixed_noise_loss(clips, k)[1] for k in range(4)]
    assert torch.equal(draws[0].eps, one.fixed_noise_loss(clips)[1].eps)
    assert torch.equal(draws[1].eps, several.fixed_noise_loss(clips, 1)[1].eps)
    assert len({float(x) for d in draws for x in d.eps[:, 0, 0, 0]}) == 12
    # Twelve times, as even as those of twelve clips
    times = torch.stack([d.t for d in draws], 1).flatten()
    assert torch.equal(times, one.fixed_noise_loss(batch(range(12)))[1].t)
    logged = {}
    monkeypatch.setattr(several, "log", lambda name, value, **_: logged.update({name: value}))
    several.validation_step(clips, 0)
    expected = torch.stack([several.fixed_noise_loss(clips, k)[0] for k in range(4)]).mean()
    torch.testing.assert_close(logged["val/loss"].compute(), expected)
    assert several.buckets["val_loss"].count.sum() == 12


def test_what_a_process_takes_from_the_data_is_measured_when_training_starts():
    data = SimpleNamespace(sigma_data=0.2, diameter=31.0)
    module = DiffusionModule(small(), sde=VE(sigma_max=None))
    module.trainer = SimpleNamespace(datamodule=data, strategy=SimpleNamespace(checkpoint_io=None), loggers=[])
    module.setup("fit")
    assert float(module.denoiser.sde.measured) == 31.0
    assert float(module.denoiser.sigma_data) == pytest.approx(0.2)


def test_weights_of_another_layout_are_named_in_one_line():
    with pytest.raises(ValueError, match="another model") as error:
        check_fit(DiffusionModule(small()), DiffusionModule(small(classes=5)).state_dict())
    assert "\n" not in str(error.value)
    assert "label" in str(error.value)


def test_a_compiled_network_keeps_the_names_of_its_weights():
    module = DiffusionModule(small(), compile=True, sigma_data=0.4)
    names = set(module.state_dict())
    module.trainer = SimpleNamespace(datamodule=None, loggers=[], strategy=SimpleNamespace(checkpoint_io=None))
    module.setup("fit")
    module.on_fit_start()
    assert module.denoiser.net._compiled_call_impl is not None
    assert set(module.state_dict()) == names


def test_the_sampler_of_choice_takes_every_process():
    for sde in PROCESSES.values():
        sampler, u = DefaultSampler(), sde.prior((1, 1, 8)).double()
        x = sampler(Oracle(sde, GAUSSIAN), u, generator=torch.Generator().manual_seed(0))
        own = DPMSolverSDE(28, LogNormalGrid(), eta=0.3, eta_low_noise=1.0) if sde.blocks == 1 else DDIM(28)
        assert type(sampler.resolve(sde)) is type(own)
        assert torch.equal(x, own(Oracle(sde, GAUSSIAN), u, generator=torch.Generator().manual_seed(0)))
        assert sampler.nfe == 28
    with pytest.raises(ValueError, match="steps = 1"):
        DefaultSampler(1)


def test_guidance_without_a_trained_absence_of_class_is_refused():
    with pytest.raises(ValueError, match="label_dropout = 0 never trains"):
        DiffusionModule(small(), guidance=Guidance(), label_dropout=0.0)


def test_the_noise_of_sounds_is_drawn_on_the_cpu_wherever_the_model_is():
    model = DiffusionModule(small()).to("meta")
    assert all(generator.device.type == "cpu" for generator in model.generators([0, 1]))


def test_the_summary_counts_the_operations_of_a_call():
    net, found = small(classes=0, inputs=2), []
    module = DiffusionModule(net, sde=CLD(), sigma_data=0.4)
    counted = FlopCounterMode(display=False)
    with torch.no_grad(), counted:
        net(torch.zeros(1, 2, 500), torch.zeros(1))

    class Summary(ModelSummary):
        @staticmethod
        def summarize(*args, total_flops, **options):
            found.append(total_flops)

    class Data(LightningDataModule):
        sigma_data, length = 0.4, 500

        def train_dataloader(self):
            return DataLoader([batch(range(2))], batch_size=None)

    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[Summary()],
    )  # fmt: skip
    trainer.fit(module, Data())
    # Those of the kernel's matrices are a few more.
    assert found == [pytest.approx(counted.get_total_flops(), rel=1e-4)]
    assert found[0] > 1e5
