import csv
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from diffwave_sde.callbacks import EMA, SpikeDetector
from diffwave_sde.callbacks.spikes import Diverged

BAD = 5  # the step whose gradient is made to jump


class Jump(Callback):
    """Multiplies the gradient of one step, and keeps everything that the optimizer may change."""

    def __init__(self, factor: float):
        self.factor, self.states = factor, []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        state = {k: v.clone() for p in optimizer.state.values() for k, v in p.items()}
        average = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)
        averaged = [p.clone() for p in average._average_model.module.parameters()] if average else []
        self.states.append(([p.detach().clone() for p in module.parameters()], list(state.values()), averaged))
        if trainer.global_step == BAD:
            for p in module.parameters():
                if p.grad is not None:
                    p.grad.mul_(self.factor)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def records(path) -> list[dict]:
    return [torch.load(p, weights_only=True) for p in sorted((path / "spikes").glob("*.pt"))]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_what_counts_as_a_spike_does_not_depend_on_the_scale(scale):
    torch.manual_seed(0)
    noise = (0.3 * torch.randn(500)).exp().tolist()
    detector = SpikeDetector()
    assert not any(detector.detect((scale * x, 1.0)) for x in noise)
    assert set(detector.detect((scale * 30, 1.0))) == {"loss"}
    assert set(detector.detect((scale, 30.0))) == {"grad_norm"}
    assert not detector.detect((scale / 1000, 1.0))  # a fall is no spike


def test_a_value_that_is_not_finite_always_counts():
    detector = SpikeDetector()
    assert detector.detect((math.nan, 1.0)) == {"loss": math.inf}
    assert detector.detect((1.0, math.inf)) == {"grad_norm": math.inf}
    assert [len(past) for past in detector.history.values()] == [1, 1]  # and is not learned from


def test_a_new_level_that_stays_is_accepted():
    detector = SpikeDetector(window=40, warmup=20)
    for _ in range(40):
        detector.detect((1.0, 1.0))
    flagged = [bool(detector.detect((50.0, 1.0))) for _ in range(40)]
    assert flagged[0]
    assert not any(flagged[22:])


@pytest.mark.parametrize("factor", [1e8, math.nan])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_changes_neither_weights_nor_moments_nor_the_average(
    model, data, trainer, factor, accumulate, tmp_path
):
    jump, ema = Jump(factor), EMA(0.9)
    detector = SpikeDetector(warmup=3, window=20, threshold=20, skip=True)
    options = {"max_steps": 8, "accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
    trainer([jump, detector, ema], **options).fit(model(), data())
    before, after, later = (jump.states[i] for i in (BAD, BAD + 1, BAD + 2))
    assert all(same(x, y) for x, y in zip(before, after, strict=True))
    assert not any(same(x, y) for x, y in zip(after, later, strict=True))
    assert ema.updates == 7
    assert [r["step"] for r in records(tmp_path)] == [BAD]


def test_a_step_is_skipped_under_a_loss_scaler_too(model, data, trainer, tmp_path):
    jump = Jump(1e4)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    precision.autocast_context_manager = lambda: torch.autocast("cpu", torch.bfloat16)  # for the scaler's sake only
    detector = SpikeDetector(warmup=3, window=20, threshold=20, skip=True)
    trainer([jump, detector], max_steps=8, plugins=[precision]).fit(model(), data())
    assert same(jump.states[BAD][0], jump.states[BAD + 1][0])
    assert not same(jump.states[BAD + 1][0], jump.states[BAD + 2][0])
    assert [r["step"] for r in records(tmp_path)] == [BAD]


def test_a_record_replays_to_the_very_losses_that_were_kept(model, data, trainer, tmp_path):
    jump, sounds, module = Jump(1e4), data(), model()
    detector = SpikeDetector(warmup=3, window=20, threshold=20, skip=True)
    trainer([jump, detector], max_steps=BAD + 1).fit(module, sounds)
    (record,) = records(tmp_path)
    (part,) = record["batches"]
    assert (record["step"], record["world"], part["rank"], part["counter"]) == (BAD, 1, 0, BAD)
    rows = sounds.splits["train"].tolist()
    batch = sounds.train_dataloader().dataset.__getitems__([rows.index(row) for row in part["index"].tolist()])
    x, condition, draw = module.train().replay(batch, part["counter"], part["rank"], record["world"], record["parts"])
    torch.testing.assert_close(module.loss.at(module.denoiser, x, draw, condition), part["losses"], rtol=1e-6, atol=0)
    torch.testing.assert_close(module.denoiser.sde.kernel(draw.t).snr.rsqrt().float(), part["sigma"])
    torch.testing.assert_close(part["losses"].mean().item(), record["loss"])
    names = [line["file"] for line in sounds.store.manifest()]
    assert part["names"] == [names[row] for row in part["index"].tolist()]


def test_only_the_newest_records_are_kept(model, data, trainer, tmp_path):
    class Always(SpikeDetector):
        def detect(self, values):
            return {"loss": 9.0}

    trainer([Always(keep=3)], max_steps=12).fit(model(), data())
    assert sorted(p.name for p in (tmp_path / "spikes").glob("*.pt")) == ["step=10.pt", "step=11.pt", "step=9.pt"]


def test_the_gradient_norm_before_clipping_is_logged(model, data, trainer, tmp_path):
    class Norm(Callback):
        norms: list[float] = []  # noqa: RUF012

        def on_before_optimizer_step(self, trainer, module, optimizer):
            grads = [p.grad.double().square().sum() for p in module.parameters() if p.grad is not None]
            self.norms.append(float(sum(grads).sqrt()))

    norm, logger = Norm(), CSVLogger(tmp_path, "csv", "0")
    options = {"logger": logger, "log_every_n_steps": 2, "gradient_clip_val": 1e-3}
    trainer([norm, SpikeDetector()], max_steps=4, **options).fit(model(), data())
    text = (tmp_path / "csv" / "0" / "metrics.csv").read_text().splitlines()
    column = text[0].split(",").index("train/grad_norm")
    logged = [float(line.split(",")[column]) for line in text[1:] if line.split(",")[column]]
    assert logged == pytest.approx(norm.norms[1::2], rel=1e-5)


@pytest.mark.parametrize(("parts", "stop"), [(2, None), (1, 6)])
def test_what_is_logged_now_and_then_goes_with_what_lightning_logs(model, data, trainer, tmp_path, parts, stop):
    class Stop(Callback):
        """Asks for the end in the middle of a step, as Ctrl-C does."""

        def on_train_batch_start(self, trainer, module, *_):
            trainer.should_stop = trainer.should_stop or trainer.global_step == stop

    def run(steps, ckpt=None):
        logger = CSVLogger(tmp_path, "csv", str(steps))
        options = {"logger": logger, "log_every_n_steps": 3, "accumulate_grad_batches": parts}
        save = ModelCheckpoint(tmp_path, save_last=True)
        fit = trainer([Stop(), SpikeDetector(), save], max_steps=steps, enable_checkpointing=True, **options)
        fit.fit(model(), data(), ckpt_path=ckpt)
        with (tmp_path / "csv" / str(steps) / "metrics.csv").open() as file:
            return list(csv.DictReader(file))

    rows = run(4) + run(10, tmp_path / "last.ckpt")
    logged = [int(row["step"]) for row in rows if row["train/loss"]]  # given at every step: Lightning chooses
    assert set(logged) == ({2, 5, 8} if stop is None else {2, 5, 6})
    for name in ("train/lr", "train/grad_norm"):  # given when the program thinks that it will be logged
        assert [int(row["step"]) for row in rows if row[name]] == logged


def test_a_run_that_has_diverged_stops_and_says_so(model, data, trainer):
    class Break(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            if trainer.global_step >= 2:
                next(module.denoiser.parameters()).data.fill_(math.nan)

    with pytest.raises(RuntimeError, match=r"without a finite loss .* after going back 2 times.* lower learning rate"):
        trainer([Break(), SpikeDetector(patience=4, retries=2)], max_steps=20).fit(model(), data())


class Poison(Jump):
    """A gradient that is not finite at the steps given, once each."""

    def __init__(self, *steps, factor=math.nan):
        super().__init__(factor)
        self.steps = list(steps)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step in self.steps:
            self.steps.remove(trainer.global_step)
            next(p for p in module.parameters() if p.grad is not None).grad.mul_(self.factor)


class Late:
    """A reading as a GPU's is, of a CPU's numbers."""

    def __init__(self, values):
        self.values = values.clone()

    def tolist(self):
        return self.values.tolist()


def state_of(module, ema, fit) -> list[torch.Tensor]:
    moments = [x.clone() for s in fit.optimizers[0].state.values() for x in s.values() if isinstance(x, torch.Tensor)]
    average = [p.detach().clone() for p in ema._average_model.module.parameters()]
    return [*(p.detach().clone() for p in ema._of.parameters()), *average, *moments]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing_by_default(
    model, data, trainer, tmp_path, monkeypatch, late, factor, parts
):
    monkeypatch.setattr(SpikeDetector, "_late", staticmethod(lambda values: late))
    monkeypatch.setattr("diffwave_sde.callbacks.spikes._Reading", Late)
    states = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step > len(states):  # an epoch's last step may be of fewer parts
                states.append(state_of(module, ema, trainer))

    ema, detector = EMA(0.9), SpikeDetector()
    fit = trainer([Poison(BAD, factor=factor), detector, ema, Watch()], max_steps=8, accumulate_grad_batches=parts)
    fit.fit(model(), data())
    # One step late the broken step is seen in the weights, until the next one takes it back with its own gradient.
    seen = BAD + 1 if late else BAD
    assert same(states[BAD - 1], states[seen])
    assert not same(states[seen], states[seen + 1])
    assert all(x.isfinite().all() for x in states[-1])
    assert ema.updates == (6 if late else 7)
    (record,) = records(tmp_path)
    assert (record["step"], record["skipped"]) == (BAD, True)


def test_without_such_steps_the_weights_are_those_of_a_run_without_protection(model, data, trainer, monkeypatch):
    def final(*callbacks):
        module = model()
        trainer(callbacks, max_steps=6).fit(module, data())
        return list(module.parameters())

    plain, watched = final(), final(SpikeDetector())
    monkeypatch.setattr(SpikeDetector, "_late", staticmethod(lambda values: True))
    monkeypatch.setattr("diffwave_sde.callbacks.spikes._Reading", Late)
    assert same(plain, watched)
    assert same(plain, final(SpikeDetector()))


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_of_a_step_that_is_not_finite_holds_the_state_before_it(
    model, data, trainer, tmp_path, monkeypatch, late
):
    monkeypatch.setattr(SpikeDetector, "_late", staticmethod(lambda values: late))
    monkeypatch.setattr("diffwave_sde.callbacks.spikes._Reading", Late)
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    detector = SpikeDetector()
    fit = trainer([Poison(3), detector, EMA(0.9), save], max_steps=6, enable_checkpointing=True)
    fit.fit(model(), data())
    before, after = (torch.load(tmp_path / f"step={i}.ckpt", weights_only=True) for i in (3, 4))
    for part in ("state_dict", "current_model_state"):
        assert same(before[part].values(), after[part].values())
    assert len(list(tmp_path.glob("*.ckpt"))) == 6


def test_steps_in_a_row_that_are_not_finite_go_back_to_the_last_checkpoint_at_a_lower_rate(
    model, data, trainer, tmp_path
):
    rates, weights = [], []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            weights.append([p.detach().clone() for p in module.parameters()])

    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3)
    detector = SpikeDetector(patience=2, cut=0.25)
    fit = trainer([Poison(4, 5), detector, Watch(), save], max_steps=8, enable_checkpointing=True)
    fit.fit(model(), data())
    assert same(weights[5], weights[2])  # the checkpoint was after step 3
    assert not same(weights[4], weights[2])
    assert rates == [3e-3] * 5 + [0.25 * 3e-3] * 3
    assert detector.returns == 1


def test_weights_that_are_not_finite_are_never_written_and_the_run_fails(model, data, trainer, tmp_path):
    class Overflow(Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            if trainer.global_step >= 2:
                next(module.denoiser.parameters()).data.fill_(math.inf)

    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit = trainer([Overflow(), SpikeDetector(retries=0), save], max_steps=6, enable_checkpointing=True)
    with pytest.warns(UserWarning, match=r"is not written: .* not finite"), pytest.raises(Diverged):
        fit.fit(model(), data())
    written = sorted(tmp_path.glob("*.ckpt"))
    assert written
    for path in written:
        assert all(x.isfinite().all() for x in torch.load(path, weights_only=True)["state_dict"].values())


def test_what_was_learned_survives_a_checkpoint():
    one, two = SpikeDetector(), SpikeDetector()
    for i in range(80):
        one.detect((1 + 0.01 * i, 2.0))
    two.load_state_dict(one.state_dict())
    assert one.detect((40.0, 3.0)) == two.detect((40.0, 3.0)) != {}


def test_a_spike_alerts_the_loggers_that_take_alerts(model, data, trainer, tmp_path):
    calls = []

    class Experiment:
        def alert(self, **call):
            calls.append(call)

    class Logger(CSVLogger):
        experiment = Experiment()

        def log_metrics(self, *_, **__):
            pass

        def save(self):
            pass

    detector = SpikeDetector(warmup=3, window=20, threshold=20)
    trainer([Jump(1e4), detector], max_steps=8, logger=Logger(tmp_path)).fit(model(), data())
    assert len(calls) == 1
    assert calls[0]["title"] == "Spike at step 5"
    assert len(calls[0]["title"]) < 64
