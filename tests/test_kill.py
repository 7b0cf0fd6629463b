"""A run that is killed at any moment goes on as if it had not been, bit for bit; and long runs leak nothing.

The kill is SIGKILL, at a moment that chance chooses: while a store is built, a checkpoint is written, a step is made,
or the run starts. Runs begin as copies of one process that has imported everything, so that a trial takes seconds.
"""

import gc
import multiprocessing
import os
import random
import sys
import time

import psutil
import pytest
import torch
import yaml

from diffwave_sde.cli import kinds, main

STEPS = 8
SMALL = [
    "--data.dataset=drums", "--data.count=40", "--data.length=2000", "--data.batch_size=4", "--data.workers=0",
    "--model.net.channels=[8,8,8]", "--model.net.embedding=8", "--model.net.heads=2", "--model.optimizer=AdamW",
    "--model.optimizer.lr=5e-4", "--model.scheduler.warmup=2", "--model.scheduler.decay=0", "--trainer.logger=false",
    "--trainer.precision=32-true", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.val_check_interval=4",
    "--trainer.log_every_n_steps=2",
]  # fmt: skip
CALLBACKS = [
    "EMA", "SpikeDetector", "MetricHistory", "Progress",
    {"class_path": "LastCheckpoint", "init_args": {"every": 1}},
    {"class_path": "ModelCheckpoint", "init_args": {"filename": "best", "monitor": "val/loss"}},
]  # fmt: skip


def file(name: str) -> str:
    return f"--config={kinds.CONFIGS / name}"


KINDS = {
    "autoguidance": [
        file("experiment/autoguidance.yaml"), "--model.weak.channels=[4,4,4]", "--model.weak.embedding=8",
    ],
    "augmentation": [file("data/augmented.yaml")],
    "learnt process": [file("sde/vdm.yaml")],
    "importance times": [file("loss/importance.yaml")],
    "two workers": ["--data.workers=2"],
    "new store": [],
}  # fmt: skip


def _run(folder: str, argv: list[str]) -> None:
    """The body of a run's process."""
    os.setpgrp()  # so that its workers can be found
    os.chdir(folder)
    torch.set_num_threads(1)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    main(argv)


@pytest.fixture(scope="module")
def start():
    """Starts a run in a folder, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffwave_sde.cli.lightning"])

    def starts(folder, argv):
        process = context.Process(target=_run, args=(str(folder), argv))
        process.start()
        return process

    return starts


def command(folder, store, kind: str) -> list[str]:
    callbacks = [one if isinstance(one, dict) else {"class_path": one} for one in CALLBACKS]
    (folder / "callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return [
        "fit", *KINDS[kind], *SMALL, *(["--data.workers=2"] if kind == "two workers" else []),
        "--config=callbacks.yaml", f"--data.root={store}", "--name=run", f"--trainer.max_steps={STEPS}",
    ]  # fmt: skip


def finished(process, folder) -> None:
    process.join(240)
    assert process.exitcode == 0, (folder / "log").read_text()[-3_000:]


def contents(folder) -> dict:
    """The last checkpoint of the run in a folder."""
    state = torch.load(folder / "runs" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == STEPS
    return state


def same(a, b) -> bool:
    """Whether two parts of checkpoints are the same bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def killed(start, folder, store, kind: str, moments: list[float]) -> int:
    """A run that is killed after each of these times, s, and then ends; how many of the kills hit it alive."""
    folder.mkdir()
    first, kills = command(folder, store, kind), 0
    last = folder / "runs" / "run" / "checkpoints" / "last.ckpt"
    for moment in [*moments, None]:
        process = start(folder, ["fit", "--ckpt_path=runs/run"] if last.is_file() else first)
        if moment is None:
            finished(process, folder)
            continue
        process.join(moment)
        kills += process.exitcode is None
        process.kill()
        process.join(20)
        for path in folder.rglob("*.ckpt"):  # what has a final name is whole
            if not path.name.startswith("."):
                torch.load(path, weights_only=True)
        if process.exitcode == 0:
            break
        if not last.is_file():
            first = [*first[:-2], "--name=run", first[-1]]
            for path in folder.glob("runs/run"):  # without a checkpoint there is nothing to go on with
                path.rename(folder / f"left-{kills}-{time.monotonic_ns()}")
    return kills


@pytest.mark.slow
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(kind, start, tmp_path):
    trials = int(os.environ.get("KILLS", "9"))
    for name in ("again", "whole"):  # the first waits for the imports, and its time says nothing
        (tmp_path / name).mkdir()
        began = time.monotonic()
        store = tmp_path / (f"store-{name}" if kind == "new store" else "store")
        finished(start(tmp_path / name, command(tmp_path / name, store, kind)), tmp_path / name)
        seconds = time.monotonic() - began
    whole, kills, runs = contents(tmp_path / "whole"), 0, 0
    chance = random.Random(kind)
    while kills < trials:
        store = tmp_path / (f"store-{runs}" if kind == "new store" else "store")
        moments = [chance.uniform(0.2, 1.0) * seconds for _ in range(3)]
        kills += killed(start, tmp_path / f"run-{runs}", store, kind, moments)
        ended = contents(tmp_path / f"run-{runs}")
        for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
            assert same(whole.get(part), ended.get(part)), (part, moments)
        runs += 1
    print(f"{kind}: {kills} kills in {runs} runs of {seconds:.1f} s, each ended with the same bits")


def _state() -> tuple[int, int, int, float]:
    """Open files, threads, child processes, and resident memory in MiB of this process: what nothing can free."""
    gc.collect()
    process = psutil.Process()
    return process.num_fds(), process.num_threads(), len(process.children(True)), process.memory_info().rss / 2**20


def _restarts(folder: str, times: int, results) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    for i in range(times):
        steps = [f"--trainer.max_steps={2 + i}"]
        more = ["fit", "--ckpt_path=runs/run", *steps] if i else [*command_here(folder), *steps]
        main(more)
        results.put(_state())


def command_here(folder: str) -> list[str]:
    from pathlib import Path

    return command(Path(folder), Path(folder) / "store", "two workers")


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_twenty_restarts_in_one_process_leak_no_files_threads_or_workers(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_restarts, args=(str(tmp_path), 20, results))
    process.start()
    states = [results.get(timeout=300) for _ in range(20)]
    process.join(60)
    print([tuple(map(round, state)) for state in states])
    settled, last = states[4], states[-1]
    assert last[:3] == settled[:3]
    assert last[3] - settled[3] < 60  # MiB; of 15 restarts


def _long(folder: str, results) -> None:
    from lightning.pytorch import Callback

    from diffwave_sde.callbacks import Progress

    os.chdir(folder)
    torch.set_num_threads(1)
    os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    told = Progress.on_train_batch_end

    def watched(self, trainer, *args, **kwargs):
        if trainer.global_step % 250 == 0:
            results.put((trainer.global_step, *_state()))
        return told(self, trainer, *args, **kwargs)

    assert issubclass(Progress, Callback)
    Progress.on_train_batch_end = watched
    more = ["--trainer.max_steps=2000", "--trainer.val_check_interval=500", "--trainer.log_every_n_steps=50"]
    main([*command_here(folder), *more, "--data.workers=0"])


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_two_thousand_steps_on_a_store_take_no_more_memory_than_five_hundred(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_long, args=(str(tmp_path), results))
    process.start()
    states = []
    while not states or states[-1][0] < 2_000:
        states.append(results.get(timeout=600))
    process.join(120)
    print([tuple(map(round, state)) for state in states])
    settled = next(state for state in states if state[0] == 500)
    assert states[-1][1:4] == settled[1:4]
    assert states[-1][4] - settled[4] < 30  # MiB
