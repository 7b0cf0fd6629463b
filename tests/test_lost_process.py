"""Training in two processes of which one dies, and signals to a whole group of processes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]

DYING = """
import os, signal
from lightning.pytorch import Callback

class Die(Callback):
    def __init__(self, rank: int, how: str):
        self.rank, self.how = rank, how

    def on_train_batch_start(self, trainer, module, *_):
        open(f"pid-{trainer.global_rank}", "w").write(str(os.getpid()))
        if trainer.global_step == 3 and trainer.global_rank == self.rank:
            if self.how == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
"""


def start(here, *more):
    """A run in a process group of its own, whose words go into a file that no orphan can hold up."""
    return launch(
        here, "--data.count=60", "--data.length=2000", "--data.batch_size=4", "--data.workers=1",
        "--model.net.channels=[8,8,8]", "--model.net.embedding=8", "--model.net.heads=2", "--model.optimizer=AdamW",
        "--trainer.precision=32-true", "--trainer.accelerator=cpu", "--trainer.logger=false",
        "--trainer.val_check_interval=100000", "--trainer.max_steps=100000", "--name=lost", *more,
    )  # fmt: skip


def launch(here, *options):
    """`fit` in a process group of its own."""
    command = [sys.executable, "-m", "diffwave_sde", "fit", *options]
    path = os.pathsep.join([str(ROOT), str(here)])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with open(here / "said", "a") as said:
        return subprocess.Popen(command, cwd=here, env=env, stdout=said, stderr=said, start_new_session=True)


def group_members(group: int) -> list[int]:
    """The processes of a group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return bool(condition())


def end(process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit", "kill"])
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_of_two_processes_dies_the_other_ends_within_a_minute_and_says_why(rank, how, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    process = start(
        tmp_path, "--trainer.devices=2", "--trainer.callbacks+=dying.Die", f"--trainer.callbacks.rank={rank}",
        f"--trainer.callbacks.how={how}",
    )  # fmt: skip
    try:
        assert wait(lambda: (tmp_path / "pid-1").exists() and (tmp_path / "pid-0").exists(), 180)
        pids = [int((tmp_path / f"pid-{r}").read_text()) for r in (0, 1)]
        gone = lambda pid: process.poll() is not None if pid == process.pid else not Path(f"/proc/{pid}").exists()  # noqa: E731
        assert wait(lambda: gone(pids[rank]) or gone(pids[1 - rank]), 120)
        assert wait(lambda: process.poll() is not None and not group_members(process.pid), 60), "orphans"
        assert process.returncode != 0
        assert "another process of this training has ended" in (tmp_path / "said").read_text()
    finally:
        end(process)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)], ids=str
)
def test_a_signal_to_the_whole_group_lets_the_step_finish_and_saves_it(number, status, tmp_path):
    process = start(tmp_path, "--trainer.devices=1")
    try:
        assert wait(lambda: "step 1/" in (tmp_path / "said").read_text(), 180)
        os.killpg(process.pid, number)
        assert process.wait(timeout=120) == status, (tmp_path / "said").read_text()
        saved = torch.load(tmp_path / "runs" / "lost" / "checkpoints" / "last.ckpt", weights_only=True)
        assert f"stopped after step {saved['global_step']}; to go on" in (tmp_path / "said").read_text()
        assert wait(lambda: not group_members(process.pid), 20)
    finally:
        end(process)


def finished(here, process) -> dict:
    """The last checkpoint of a run that has ended well."""
    try:
        assert process.wait(timeout=300) == 0, (here / "said").read_text()[-2_000:]
    finally:
        end(process)
    return torch.load(here / "runs" / "lost" / "checkpoints" / "last.ckpt", weights_only=True)


def steps(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True, mmap=True)["global_step"]


def shared(devices: int) -> list[str]:
    """Eight clips a step on so many processes."""
    return [f"--trainer.devices={devices}", f"--data.batch_size={8 // devices}"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_on_another_number_of_devices_with_the_same_clips_and_draws(before, after, tmp_path):
    often = {"class_path": "LastCheckpoint", "init_args": {"every": 1}}
    callbacks = [{"class_path": "EMA"}, {"class_path": "Progress"}, often]
    (tmp_path / "often.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    options = [f"--config={tmp_path / 'often.yaml'}", "--trainer.max_steps=40", "--trainer.log_every_n_steps=1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = finished(whole, start(whole, *shared(before), *options))
    process = start(cut, *shared(before), *options)
    saved = cut / "runs" / "lost" / "checkpoints" / "last.ckpt"
    try:
        assert wait(lambda: saved.exists() and steps(saved) > 3, 240)
    finally:
        end(process)
    assert steps(saved) < 40
    found = finished(cut, launch(cut, "--ckpt_path=runs/lost", *shared(after)))
    assert found["global_step"] == expected["global_step"] == 40
    # The clips and the draws are the same; sums of gradients are taken in another order.
    for part in ("state_dict", "current_model_state"):
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-4, atol=1e-5, msg=f"{part} {name}")
