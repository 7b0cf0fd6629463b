import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from diffwave_sde import audio
from diffwave_sde.callbacks import EMA, Likelihood
from diffwave_sde.likelihood import Bound, Proxy, bits_per_sample
from diffwave_sde.random import stream

VALIDATING = {"limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}


class Seen(Callback):
    """What was logged, validation by validation."""

    def __init__(self):
        self.figures = []

    def on_validation_end(self, trainer, module):
        self.figures.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


@pytest.mark.parametrize(("method", "estimator"), [("proxy", Proxy(4)), ("bound", Bound(1, 4))])
def test_the_figure_is_that_of_validation_clips_with_the_averaged_weights(method, estimator, model, data, trainer):
    module, sounds, seen = model(), data(), Seen()
    callbacks = [EMA(0.5), Likelihood(method, count=3, terms=4, batch=2), seen]
    trainer(callbacks, max_steps=2, **VALIDATING).fit(module, sounds)
    rows = sounds.splits["validation"][:3].tolist()
    x = audio.from_int16(sounds.store.read(rows))[:, None]
    label = torch.from_numpy(sounds.store.label_ids[rows])
    generators = [stream(module.seed, "likelihood", row) for row in rows]
    module.eval()  # after the fit the module holds the averaged weights
    bits, _ = bits_per_sample(module.denoiser, estimator, x, label, generators, sounds.mu)
    assert seen.figures[-1][f"val/{method}"] == pytest.approx(float(bits.mean()), rel=1e-4)


def test_the_checkpoint_and_the_end_follow_it_and_training_is_not_disturbed(model, data, trainer, tmp_path):
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/proxy")
    stop = EarlyStopping("val/proxy", min_delta=1e6, patience=1)  # nothing is that much better
    seen = Seen()
    options = {**VALIDATING, "enable_checkpointing": True}
    run = trainer([Likelihood(count=2, terms=2), stop, best, seen], max_steps=20, **options)
    module = model()
    torch.manual_seed(3)
    run.fit(module, data())
    assert run.global_step == 4  # the second validation had nothing better
    least = min(f["val/proxy"] for f in seen.figures)
    assert float(best.best_model_score) == pytest.approx(least, rel=1e-5)
    other = model()
    torch.manual_seed(3)
    trainer([], max_steps=4, **VALIDATING).fit(other, data())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_every_second_validation_and_a_run_that_goes_on_counts_on(model, data, trainer):
    score, seen = Likelihood(every=2, count=1, terms=1), Seen()
    score.load_state_dict({"validations": 1})
    trainer([score, seen], max_steps=4, **VALIDATING).fit(model(), data())
    assert "val/proxy" not in seen.figures[0]
    assert "val/proxy" in seen.figures[1]
    assert score.state_dict() == {"validations": 3}


@pytest.mark.parametrize(("options", "says"), [({"method": "flow"}, "choose proxy"), ({"count": 0}, "count = 0")])
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Likelihood(**options)
