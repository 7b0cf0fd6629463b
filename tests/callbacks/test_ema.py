import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from diffwave_sde.callbacks import EMA


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Steps(Callback):
    """Keeps the raw weights after every optimizer step."""

    def __init__(self):
        self.kept: list[list[torch.Tensor]] = []

    def on_fit_start(self, trainer, module):
        self.kept.append(weights(module))

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == len(self.kept):
            self.kept.append(weights(module))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_average_follows_its_formula_once_per_optimizer_step(model, data, trainer, accumulate):
    ema, steps = EMA(0.5), Steps()
    trainer([ema, steps], max_steps=9, accumulate_grad_batches=accumulate).fit(model(), data())
    expected = steps.kept[0]
    for k, raw in enumerate(steps.kept[1:]):
        decay = min(0.5, (1 + k) / (10 + k))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, raw, strict=True)]
    assert ema.updates == 9
    for got, want in zip(ema._average_model.module.parameters(), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_buffers_are_copied_not_averaged(model, data, trainer):
    class Change(Callback):
        seen = ()

        def on_train_start(self, trainer, module):
            self.seen += (float(ema._average_model.module.denoiser.sigma_data),)

        def on_train_batch_start(self, trainer, module, *_):
            module.denoiser.sigma_data.fill_(trainer.global_step)

        def on_train_batch_end(self, trainer, module, *_):
            self.seen += (float(ema._average_model.module.denoiser.sigma_data),)

    ema, change, module, sounds = EMA(), Change(), model(), data()
    trainer([ema, change], max_steps=3).fit(module, sounds)
    assert change.seen == pytest.approx((sounds.sigma_data, 0, 1, 2))  # measured before the average's first use


@pytest.mark.parametrize("stop", [6, 8])  # within an epoch, and at its end
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(model, data, trainer, tmp_path, stop):
    def run(folder, steps, ckpt=None):
        ema, module = EMA(0.9), model()
        save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=2, save_last=True)
        trainer([ema, save], max_steps=steps, enable_checkpointing=True).fit(module, data(), ckpt_path=ckpt)
        return torch.load(tmp_path / folder / "last.ckpt", weights_only=False)

    whole = run("whole", 11)
    run("part", stop)
    resumed = run("part", 11, tmp_path / "part" / "last.ckpt")
    for name in ("state_dict", "current_model_state", "averaging_state"):
        assert whole[name].keys() == resumed[name].keys()
        assert all(torch.equal(whole[name][key], resumed[name][key]) for key in whole[name]), name
    moments = [c["optimizer_states"][0]["state"][3]["exp_avg"] for c in (whole, resumed)]
    assert torch.equal(*moments)


def test_the_last_checkpoint_holds_raw_and_averaged_weights_under_their_names(model, data, trainer, tmp_path):
    ema, steps, module = EMA(0.9), Steps(), model()
    save = ModelCheckpoint(tmp_path, every_n_train_steps=100, save_last=True)  # saves when training ends, and only then
    trainer([ema, steps, save], enable_checkpointing=True).fit(module, data())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    names = [name for name, _ in module.named_parameters()]
    assert same([saved["current_model_state"][n] for n in names], steps.kept[-1])
    assert same([saved["state_dict"][n] for n in names], weights(ema._average_model.module))
    assert not same(weights(ema._average_model.module), steps.kept[-1])
    assert same(weights(module), weights(ema._average_model.module))  # what a finished fit leaves in the model


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_validation_leaves_the_raw_weights_in_model_and_checkpoint(model, data, trainer, tmp_path, error):
    class Break(Callback):
        def on_validation_batch_end(self, trainer, module, *_):
            self.held, self.inside = (
                weights(module),
                copy.deepcopy(trainer._checkpoint_connector.dump_checkpoint(False)),
            )
            raise error("stop")

    ema, steps, broken, module = EMA(0.9), Steps(), Break(), model()
    save = ModelCheckpoint(tmp_path, save_on_exception=True, filename="broken")
    run = trainer([broken, steps, ema, save], enable_checkpointing=True, val_check_interval=3, limit_val_batches=1)
    with pytest.raises((RuntimeError, SystemExit)):
        run.fit(module, data())
    average = weights(ema._average_model.module)
    assert same(broken.held, average)  # validation hears the average
    assert same(weights(module), steps.kept[-1])
    names = [name for name, _ in module.named_parameters()]
    for saved in (broken.inside, torch.load(tmp_path / "broken.ckpt", weights_only=False)):
        assert same([saved["current_model_state"][n] for n in names], steps.kept[-1])
        assert same([saved["state_dict"][n] for n in names], average)


def test_the_averaged_weights_can_be_borrowed_and_an_error_gives_them_back(model, data, trainer):
    class Borrow(Callback):
        def on_train_end(self, trainer, module):
            raw = weights(module)
            with ema.averaged(module):
                self.held = weights(module)
                with ema.averaged(module):
                    assert same(weights(module), self.held)
                assert same(weights(module), self.held)
            assert same(weights(module), raw)
            with pytest.raises(ZeroDivisionError), ema.averaged(module):
                raise ZeroDivisionError
            assert same(weights(module), raw)

    ema, borrow = EMA(0.9), Borrow()
    trainer([ema, borrow]).fit(model(), data())
    assert same(borrow.held, weights(ema._average_model.module))


def test_evaluation_after_training_loads_the_averaged_weights(model, data, trainer, tmp_path):
    save = ModelCheckpoint(tmp_path, save_last=True)
    module, run = model(), trainer([EMA(0.9), save], enable_checkpointing=True)
    run.fit(module, data())
    run.test(module, data(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert all(torch.equal(v, saved["state_dict"][k]) for k, v in module.state_dict().items())
    fresh = model()
    trainer([EMA()]).test(fresh, data(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert all(torch.equal(v, saved["state_dict"][k]) for k, v in fresh.state_dict().items())


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match=r"decay = 1 of the average must be"):
        EMA(1.0)
