import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from diffwave_sde import resume as resuming
from diffwave_sde.callbacks import EMA, FrechetScore, LastCheckpoint, SampleLogger, SpikeDetector
from diffwave_sde.resume import match_callbacks


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
            self.held = weights(module)
            trainer.save_checkpoint(tmp_path / "inside.ckpt")
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
    for saved in (torch.load(tmp_path / f"{name}.ckpt", weights_only=False) for name in ("inside", "broken")):
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


# ---------------------------------------------------------------------------- resumed with other callbacks


class Seen(Callback):
    """The weights that training begins with."""

    def on_train_start(self, trainer, module):
        self.start = weights(module)


def resume(model, data, trainer, ckpt, *callbacks, steps=9):
    """The weights that a run begins and ends with, which goes on from a checkpoint."""
    seen, module = Seen(), model()
    trainer([seen, *callbacks], max_steps=steps, enable_checkpointing=True).fit(module, data(), ckpt_path=ckpt)
    return seen.start, weights(module)


@pytest.fixture
def saved(model, data, trainer, tmp_path):
    """A checkpoint of 6 steps with an average, and the weights of 9 steps without one."""
    save = ModelCheckpoint(tmp_path, save_last=True)
    trainer([EMA(0.9), SpikeDetector(), save], max_steps=6, enable_checkpointing=True).fit(model(), data())
    whole = model()
    trainer(max_steps=9).fit(whole, data())
    return tmp_path / "last.ckpt", weights(whole)


def test_a_run_resumed_without_its_average_goes_on_from_the_raw_weights(model, data, trainer, saved, told):
    path, whole = saved
    held = torch.load(path, weights_only=False)
    start, end = resume(model, data, trainer, path, ModelCheckpoint(path.parent, save_last=True))
    names = [name for name, _ in model().named_parameters()]
    assert same(start, [held["current_model_state"][name] for name in names])
    assert not same(start, [held["state_dict"][name] for name in names])
    assert same(end, whole)  # so the optimizer's moments are theirs too
    assert told() == [
        "resuming without EMA, SpikeDetector, which the checkpoint has: training goes on from the raw weights, not "
        "from the averaged ones"
    ]


def test_an_average_that_is_added_on_resuming_starts_from_the_resumed_weights(model, data, trainer, tmp_path, told):
    save = ModelCheckpoint(tmp_path, save_last=True)
    trainer([save], max_steps=6, enable_checkpointing=True).fit(model(), data())
    held = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]

    class Average(Callback):
        def on_train_start(self, trainer, module):
            self.start = weights(ema._average_model.module)

    ema, average = EMA(0.9), Average()
    start, _ = resume(model, data, trainer, tmp_path / "last.ckpt", ema, average, save)
    assert same(start, [held[name] for name, _ in model().named_parameters()])
    assert same(average.start, start)
    assert ema.updates == 3
    assert told() == [
        "resuming with EMA, which the checkpoint has not: started anew, the average from the checkpoint's weights"
    ]


def test_a_run_that_is_resumed_with_the_same_callbacks_is_told_nothing(model, data, trainer, saved, tmp_path, told):
    resume(model, data, trainer, saved[0], EMA(0.9), SpikeDetector(), ModelCheckpoint(tmp_path, save_last=True))
    assert told() == []


def test_callbacks_that_differ_are_told_by_name_and_old_names_keep_their_state(told):
    options = {"monitor": None, "every_n_train_steps": 5}
    states = {"Scoring": {"validations": 4}, "SpikeDetector": {"count": 1}, f"LastCheckpoint{options}": {"a": 1}}
    checkpoint = {"state_dict": {}, "callbacks": states}
    match_callbacks(checkpoint, [FrechetScore(), SampleLogger(), LastCheckpoint(every=7), Seen()])
    assert checkpoint == {"state_dict": {}, "callbacks": {"FrechetScore": {"validations": 4}}}
    assert told() == [
        "resuming with other options of LastCheckpoint than in the checkpoint: started anew",
        "resuming without SpikeDetector, which the checkpoint has",
        "resuming with SampleLogger, which the checkpoint has not: started anew",
    ]


@pytest.fixture
def told(monkeypatch):
    """What is told of the callbacks."""
    lines: list[str] = []
    monkeypatch.setattr(resuming, "rank_zero_info", lines.append)
    return lambda: lines
