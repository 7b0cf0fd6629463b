import re
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import Callback

from diffwave_sde.callbacks import Progress
from diffwave_sde.callbacks.progress import Clock


def test_without_a_terminal_it_prints_lines_with_loss_speed_and_time_left(model, data, trainer, capsys):
    trainer([Progress(seconds=1e-3)], max_steps=6, enable_progress_bar=True).fit(model(), data())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert [line.split(":")[0] for line in lines] == [f"step {n}/6" for n in (1, 2, 3, 4, 5, 6, 6)]
    pattern = r"step 4/6: loss [\d.]+, [\d.]+ steps/s, [\d.]+ clips/s, \d+:\d\d:\d\d left"
    assert re.fullmatch(pattern, lines[3])


def test_it_is_quiet_between_its_lines(model, data, trainer, capsys, monkeypatch):
    boot = time.monotonic() - 5.0  # a machine that has been up for less than the time between two lines
    monkeypatch.setattr(
        "diffwave_sde.callbacks.progress.time", SimpleNamespace(monotonic=lambda: time.monotonic() - boot)
    )
    trainer([Progress(seconds=1000)], max_steps=6, enable_progress_bar=True).fit(model(), data())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert [line.split(":")[0] for line in lines] == ["step 1/6", "step 6/6"]


def test_the_bar_spans_the_run_not_the_epoch(model, data, trainer):
    class Look(Callback):
        def on_train_end(self, trainer, module):
            bar = progress.train_progress_bar
            self.seen = bar.n, bar.total, bar.postfix

    progress, look = Progress(refresh=1e-3, bar=True), Look()
    trainer([look, progress], max_steps=10, enable_progress_bar=True).fit(model(), data())  # epochs of 4 steps
    assert look.seen[:2] == (10, 10)
    assert re.search(r"loss .* steps/s, .* clips/s, 0:00:00 left", look.seen[2])


def test_max_time_ends_the_run_if_it_comes_first(model, data, trainer):
    class Look(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            self.left = progress.left()

    progress, look = Progress(), Look()
    options = {"max_steps": 3, "max_time": timedelta(hours=1), "enable_progress_bar": True}
    run = trainer([progress, look], **options)
    run.fit(model(), data())
    assert look.left < 60  # the steps come first
    progress._total = 10**9
    assert 3500 < progress.left() <= 3600


def test_accumulated_batches_count_as_one_step_and_all_of_their_clips(model, data, trainer):
    progress = Progress(refresh=1e-3, bar=True)
    options = {"max_steps": 3, "accumulate_grad_batches": 2, "enable_progress_bar": True}
    trainer([progress], **options).fit(model(), data())
    assert progress._clips == 2 * 4


def test_pauses_leave_the_speed_alone_and_lengthen_the_time_left():
    clock = Clock(0)
    for i in range(1, 11):
        clock.tick(i, float(i))
    clock.pause()
    clock.tick(11, 110.0)
    clock.tick(12, 111.0)
    assert clock.speed == pytest.approx(1.0)
    progress = Progress()
    progress.setup(SimpleNamespace(global_step=12, callbacks=[], is_global_zero=True), None, "fit")
    progress._clock, progress._total = clock, 23
    assert progress.left() == pytest.approx(110)  # 11 steps more, at the 11 steps in 110 s so far


def test_after_a_stop_the_time_left_is_that_of_the_steps_left_at_the_new_speed(model, data, trainer, monkeypatch):
    """Steps of a second before the stop, of ten after it."""
    now, seconds = [0.0], [1.0]
    monkeypatch.setattr("diffwave_sde.callbacks.progress.time", SimpleNamespace(monotonic=lambda: now[0]))

    class Step(Callback):
        def on_train_batch_start(self, trainer, *_):
            now[0] += seconds[0]

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 5

    def fit(*more, ckpt=None):
        run = trainer([Step(), progress, *more], max_steps=12, enable_progress_bar=True, enable_checkpointing=False)
        run.fit(model(), data(), ckpt_path=ckpt)
        return run

    progress = Progress(refresh=1e-3, bar=False)
    first = fit(Stop())
    assert progress.left() == pytest.approx(7)  # 7 steps of a second
    first.save_checkpoint(f"{first.default_root_dir}/stopped.ckpt")
    seconds[0] = 10.0

    class Look(Callback):
        seen = ()

        def on_train_batch_end(self, trainer, *_):
            self.seen = (*self.seen, progress.left())

    progress, look = Progress(refresh=1e-3, bar=False), Look()
    fit(look, ckpt=f"{first.default_root_dir}/stopped.ckpt")
    assert look.seen[0] is None  # of one step nothing can be told
    assert look.seen[1:] == pytest.approx([50, 40, 30, 20, 10, 0])
