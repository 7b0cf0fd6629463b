"""A loss spike is made again, and its cause is named: three that are planted, one each in data, draw and weights."""

import os
import shutil

import pytest
import torch
import yaml
from refusal import refusal

from diffwave_sde.callbacks import spike_state
from diffwave_sde.cli import kinds, main
from diffwave_sde.module import DiffusionModule
from diffwave_sde.replay import Spike, replay

DATA, DRAW, WEIGHTS = 13, 16, 22  # the steps at which each is broken
CLIP = 2  # its place in the batch

OPTIONS = [
    f"--config={kinds.CONFIGS / 'network' / 'tiny.yaml'}", "--data.count=60", "--data.length=2000",
    "--data.batch_size=4", "--data.workers=0", "--model.net.channels=[8,8,8]", "--model.net.embedding=8",
    "--model.net.heads=2", "--model.optimizer=AdamW", "--model.optimizer.lr=1e-4", "--model.scheduler=null",
    "--trainer.precision=32-true", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false",
    "--trainer.max_steps=23", "--trainer.val_check_interval=1000", "--name=broken", "--config=callbacks.yaml",
]  # fmt: skip

CALLBACKS = [
    {"class_path": "SpikeDetector", "init_args": {"warmup": 8, "window": 40, "skip": True, "states": 3}},
    {
        "class_path": "ModelCheckpoint",
        "init_args": {"filename": "at-{step}", "every_n_train_steps": 10, "save_top_k": -1},
    },
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that was broken at three steps."""
    folder = tmp_path_factory.mktemp("replay")
    prepare = DiffusionModule.prepare_step

    def broken(module, batch, counter):
        x, condition, draw = prepare(module, batch, counter)
        if counter == DATA:
            x = x.clone()
            x[CLIP] *= 1e4  # a file that was read as another format
        if counter == DRAW:
            draw.eps[CLIP] *= 1e4
        if counter == WEIGHTS:
            with torch.no_grad():
                list(module.denoiser.net.parameters())[-1].add_(1e3)
        return x, condition, draw

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(DiffusionModule, "prepare_step", broken)
        (folder / "callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": CALLBACKS}}))
        main(["fit", *OPTIONS])
    return folder / "runs" / "broken"


@pytest.fixture
def there(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    return run


@pytest.mark.parametrize(("step", "cause"), [(DATA, "data"), (DRAW, "draw"), (WEIGHTS, "weights")])
def test_a_planted_spike_is_made_again_and_its_cause_is_named(step, cause, there, capsys):
    path = there / "spikes" / f"step={step}.pt"
    record = torch.load(path, weights_only=True)
    report = replay(Spike.read(path), trials=3)
    again = report.rows["as recorded"].trials[0]
    assert again.loss == pytest.approx(record["loss"], rel=1e-5)
    assert again.norm == pytest.approx(record["grad_norm"], rel=1e-4)
    assert report.cause == cause, report.why
    assert report.earlier.name == f"at-step={step // 10 * 10}.ckpt"
    if cause != "weights":
        worst = report.clips[0]
        assert worst.name == record["batches"][0]["names"][CLIP]
        assert worst.sigma == pytest.approx(record["batches"][0]["sigma"][CLIP].item())
    else:
        assert not report.rows["earlier weights"].spikes  # broken since
    norms = [norm for _, norm, _ in report.layers]
    assert norms == sorted(norms, reverse=True)
    assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(again.norm)


def test_the_program_names_the_cause_the_clip_and_the_rule_and_writes_a_page(there, capsys):
    main(["replay", str(there / "spikes" / f"step={DATA}.pt"), "--trials=1", "--shown=2"])
    said = capsys.readouterr().out
    name = torch.load(there / "spikes" / f"step={DATA}.pt", weights_only=True)["batches"][0]["names"][CLIP]
    assert all(text in said for text in ("cause: data (", "rule: ", name, "σ", "gradient norm")), said
    page = there / "spikes" / f"step={DATA}" / "index.html"
    assert name in page.read_text()
    assert len(list(page.parent.glob("*.wav"))) == 2


def test_a_spike_that_does_not_come_again_has_no_cause(there, tmp_path):
    shutil.copytree(there, tmp_path / "run")
    state = tmp_path / "run" / "spikes" / "state" / f"step={DATA}.pt"
    held = torch.load(state, weights_only=True)
    held["inputs"][0]["audio"][CLIP] /= 1e4
    torch.save(held, state)
    assert replay(Spike.read(tmp_path / "run" / "spikes" / f"step={DATA}.pt"), trials=1).cause == "unknown"


class Evil:
    def __reduce__(self):
        return os.abort, ()  # which would end the tests


def test_a_file_that_is_no_spike_is_one_line(there, tmp_path, capfd):
    good = there / "spikes" / f"step={DATA}.pt"
    record = torch.load(good, weights_only=True)
    bad = {
        "text": "no tensor", "list": [1, 2], "empty": {}, "code": Evil(), "other": {"step": 3, "loss": "x"},
        "lengths": {**record, "batches": [{**record["batches"][0], "sigma": torch.ones(1)}]},
        "reasons": {**record, "reasons": {"loss": "much"}},
    }  # fmt: skip
    for name, content in bad.items():
        path = tmp_path / f"{name}.pt"
        torch.save(content, path)
        assert f"{name}.pt is no record of a spike" in refusal(["replay", str(path)], capfd)
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:500])
    assert "cut.pt is no record of a spike" in refusal(["replay", str(tmp_path / "cut.pt")], capfd)
    assert "is no record" in refusal(["replay", str(there / "checkpoints" / "at-step=10.ckpt")], capfd)
    assert "no spike at" in refusal(["replay", str(tmp_path / "step=1.pt")], capfd)
    shutil.copy(good, tmp_path / good.name)
    assert "are not kept" in refusal(["replay", str(tmp_path / good.name)], capfd)
    (tmp_path / "state").mkdir()
    shutil.copy(there / "spikes" / "state" / f"step={DRAW}.pt", tmp_path / "state" / good.name)
    assert "is not of the spike" in refusal(["replay", str(tmp_path / good.name)], capfd)


def test_of_a_row_of_spikes_the_state_of_the_first_stays(tmp_path):
    (tmp_path / "state").mkdir()
    for step in (3, 10, 11, 12, 13, 20, 21):
        (tmp_path / f"step={step}.pt").touch()
        (tmp_path / "state" / f"step={step}.pt").touch()
    spike_state.prune(tmp_path, keep=6, states=3)
    assert sorted(map(spike_state.step_of, tmp_path.glob("*.pt"))) == [10, 11, 12, 13, 20, 21]
    assert sorted(map(spike_state.step_of, (tmp_path / "state").glob("*.pt"))) == [10, 20, 21]
    spike_state.prune(tmp_path, keep=6, states=0)
    assert not list((tmp_path / "state").iterdir())
