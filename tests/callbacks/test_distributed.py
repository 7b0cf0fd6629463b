import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import make_data


def launch(sounds, folder, case, data) -> str:
    _ = data().store  # built here, once
    here = Path(__file__).parent
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(here / "two_processes.py"), str(sounds), str(folder), case],
        env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory, sounds):
    folder = tmp_path_factory.mktemp("ddp")
    launch(sounds, folder, "run", lambda: make_data(sounds))
    return folder


def test_weights_and_average_are_the_same_on_both_processes(run):
    (raw0, average0, updates0), (raw1, average1, updates1) = (torch.load(run / f"rank-{r}.pt") for r in (0, 1))
    assert updates0 == updates1 == 6  # eight steps, two of them skipped
    assert all(torch.equal(a, b) for a, b in zip(raw0, raw1, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(average0, average1, strict=True))


def test_all_sounds_are_written_once_into_the_folder_of_rank_0(run):
    files = sorted(p.name for p in (run / "samples" / "step=4").iterdir())
    names = ["00-high", "01-low", "02-high"]
    assert files == [f"{n}.{kind}" for n in names for kind in ("png", "wav")]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["data", "index.html", "spikes", "step=4", "step=8"]
    assert not (run / "other").exists()


def test_a_spike_of_one_process_is_skipped_by_both_and_recorded_once_with_the_clips_of_both(run):
    assert sorted(path.name for path in (run / "spikes").glob("*.pt")) == ["step=5.pt", "step=6.pt"]
    held = torch.load(run / "spikes" / "state" / "step=5.pt", weights_only=True)
    assert [(part["rank"], len(part["audio"])) for part in held["inputs"]] == [(0, 2), (1, 2)]
    record = torch.load(run / "spikes" / "step=5.pt", weights_only=True)
    assert (record["step"], record["world"], record["skipped"]) == (5, 2, True)
    assert [(part["rank"], part["counter"]) for part in record["batches"]] == [(0, 5), (1, 5)]
    assert record["batches"][1]["losses"].mean() > 1e3 * record["batches"][0]["losses"].mean()


def test_a_loss_of_one_process_that_is_not_finite_is_left_out_by_both(run):
    record = torch.load(run / "spikes" / "step=6.pt", weights_only=True)
    assert (record["skipped"], record["reasons"]["loss"]) == (True, float("inf"))
    assert [bool(part["losses"].isfinite().all()) for part in record["batches"]] == [True, False]
    assert all(x.isfinite().all() for x in torch.load(run / "rank-0.pt")[0])


def test_uneven_validation_batches_come_to_the_figures_of_one_process(sounds, tmp_path, data, trainer, model):
    launch(sounds, tmp_path, "validate", data)
    both = [torch.load(tmp_path / f"figures-{rank}.pt") for rank in (0, 1)]
    alone = data(batch_size=3)
    alone.splits["validation"] = alone.splits["train"][:3]
    fit = trainer(limit_val_batches=1.0)
    fit.validate(model(), alone)
    expected = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert "val/loss" in expected
    for figures in both:
        assert figures == pytest.approx(expected, rel=1e-5)


def test_an_error_of_one_process_while_listening_leaves_it_out_on_both(sounds, tmp_path, data):
    said = launch(sounds, tmp_path, "error", data)
    assert said.count("listening to the model failed (RuntimeError: Samples at step 4 failed on rank 1:") == 1
    assert [(tmp_path / f"steps-{r}").read_text() for r in (0, 1)] == ["8", "8"]
    assert not list((tmp_path / "samples").rglob("*.wav"))
