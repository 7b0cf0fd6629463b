import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from diffwave_sde import audio
from diffwave_sde.callbacks import EMA, FrechetScore
from diffwave_sde.metrics import LogMel, frechet

VALIDATING = {"limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}


class Seen(Callback):
    """What was logged, validation by validation."""

    def __init__(self):
        self.figures = []

    def on_validation_end(self, trainer, module):
        self.figures.append({k: float(v) for k, v in trainer.callback_metrics.items() if "frechet" in k})


def test_the_figure_is_the_distance_of_new_sounds_from_validation_clips(model, data, trainer):
    module, sounds, seen = model(), data(), Seen()
    trainer([EMA(0.5), FrechetScore(count=4), seen], max_steps=2, **VALIDATING).fit(module, sounds)
    module.eval()
    label = torch.tensor([0, 1, 0, 1])
    made = audio.expand(module.sample(sounds.length, label, module.generators(range(1_000_000, 1_000_004))), sounds.mu)

    def clips(split):
        kinds, rows = sounds.store.label_ids, list(sounds.splits[split])
        of = [[r for r in rows if kinds[r] == kind] or [r for r in range(22) if kinds[r] == kind] for kind in (0, 1)]
        chosen = [of[0][0], of[1][0], of[0][1 % len(of[0])], of[1][1 % len(of[1])]]
        return LogMel()(torch.from_numpy(sounds.store.read(chosen)).float() / 32768)

    real = clips("validation")
    expected = frechet(real, LogMel()(made[:, 0].detach()))
    assert seen.figures[-1]["val/frechet"] == pytest.approx(expected, rel=1e-3)
    assert seen.figures[-1]["val/frechet_ratio"] == pytest.approx(expected / frechet(real, clips("train")), rel=1e-3)


def test_every_second_validation(model, data, trainer):
    seen = Seen()
    trainer([FrechetScore(every=2, count=2), seen], max_steps=6, **VALIDATING).fit(model(), data())
    first, second, third = (f["val/frechet"] for f in seen.figures)
    assert first == second != third


def test_a_checkpoint_can_be_chosen_by_it(model, data, trainer, tmp_path):
    best = ModelCheckpoint(
        tmp_path, filename="best-{val/frechet:.3f}", monitor="val/frechet", auto_insert_metric_name=False
    )
    seen = Seen()
    options = {**VALIDATING, "enable_checkpointing": True}
    trainer([FrechetScore(count=2), best, seen], max_steps=6, **options).fit(model(), data())
    least = min(f["val/frechet"] for f in seen.figures)
    assert float(best.best_model_score) == pytest.approx(least, rel=1e-5)


def test_training_is_not_disturbed(model, data, trainer):
    def run(*callbacks):
        module = model()
        torch.manual_seed(3)
        trainer(callbacks, max_steps=4, **VALIDATING).fit(module, data())
        return list(module.parameters())

    assert all(torch.equal(a, b) for a, b in zip(run(), run(FrechetScore(count=2)), strict=True))


def test_a_run_that_goes_on_counts_on(model, data, trainer, tmp_path):
    score = FrechetScore(every=3, count=2)
    score.load_state_dict({"validations": 2})
    seen = Seen()
    trainer([score, seen], max_steps=4, **VALIDATING).fit(model(), data())
    assert seen.figures[0] == {}
    assert "val/frechet" in seen.figures[1]
    assert score.state_dict() == {"validations": 4}


def test_an_error_of_another_process_is_told_as_one_of_the_score(model, data, trainer, monkeypatch):
    def exchange(everyone, mine):
        everyone[:] = [mine, ("ZeroDivisionError", {})]

    def start(trainer, module):
        monkeypatch.setattr(type(trainer), "world_size", 2)

    monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
    early = Callback()
    early.on_validation_epoch_end = start
    fit = trainer([early, FrechetScore(count=2)], max_steps=2, **VALIDATING)
    with pytest.warns(UserWarning, match="Fréchet score failed on rank 1"):
        fit.fit(model(), data())
    assert fit.global_step == 2
    assert fit.callback_metrics["val/frechet"].isnan()


@pytest.mark.parametrize(("options", "says"), [({"every": 0}, "every = 0"), ({"embedding": "ears"}, "ears")])
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        FrechetScore(**options)
