"""The commands of docs/loops.md, at small size."""

import pytest
from refusal import refusal

from diffwave_sde import audio
from diffwave_sde.cli import kinds, main
from diffwave_sde.metrics.rhythm import seam

SMALL = [
    "--data.rate=8000", "--data.length=16000", "--data.count=24", "--data.batch_size=4", "--data.workers=0",
    "--model.net.channels=[8,8,8]", "--model.net.embedding=8", "--model.net.heads=2", "--model.net.position=8",
    "--model.optimizer=AdamW", "--trainer.max_steps=2", "--trainer.logger=false", "--trainer.accelerator=cpu",
    "--trainer.precision=32-true", "--trainer.val_check_interval=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("loops"), pytest.MonkeyPatch()
    patch.chdir(folder)
    main(["fit", f"--config={kinds.CONFIGS / 'experiment' / 'loops.yaml'}", "--name=loops", *SMALL])
    yield folder
    patch.undo()


def test_loops_are_learned_and_made_on_a_circle(here):
    more = ["--ckpt=runs/loops", "--sampler=DDIM", "--sampler.steps=8"]
    main(["sample", "--loop", "--n=2", "--out=made", *more])
    main(["sample", "--loop", "--label=120 bpm", "--n=1", "--out=one", *more])
    main(["sample", "--n=2", "--out=plain", *more])
    looped, plain = ([audio.decode(file) for file in sorted((here / name).glob("*.wav"))] for name in ("made", "plain"))
    assert [(len(x), rate) for x, rate in looped] == [(16_000, 8_000)] * 2
    assert all(bool((x != y).any()) for (x, _), (y, _) in zip(looped, plain, strict=True))
    assert all(seam(x.numpy()) < 4 for x, _ in looped)


def test_what_does_not_loop_is_told_in_one_line(here, capfd):
    asked = ["sample", "--ckpt=runs/loops", "--loop"]
    assert "with --audio sounds are as long as the track" in refusal([*asked, "--audio=made.wav"], capfd)
    odd = ["fit", f"--config={kinds.CONFIGS / 'experiment' / 'loops.yaml'}", *SMALL]
    assert "of a circle there is an even number of features" in refusal([*odd, "--model.net.position=7"], capfd)
    assert "holds no whole number of beats" in refusal([*odd, "--data.length=2000"], capfd)
