"""A small model that was trained on pairs."""

from pathlib import Path

import torch

from diffwave_sde import audio
from diffwave_sde.cli import main

RATE = 8_000
LENGTH = 2_000


def fit(home: Path) -> Path:
    """A run of two steps on stems."""
    for number in range(4):
        mix = 0.3 * torch.randn(4 * LENGTH, generator=torch.Generator().manual_seed(number))
        for name in ("mix", "part"):
            audio.write(home / "songs" / f"{number}" / f"{name}.wav", mix.clamp(-1, 1), RATE)
    main([
        "fit", "--config", "configs/experiment/bass.yaml", "--data.dataset", str(home / "songs"), "--data.root",
        str(home / "data"), f"--data.length={LENGTH}", f"--data.rate={RATE}", "--data.workers=0", "--data.batch_size=2",
        "--model.net.init_args.channels=[8,8,8]", "--model.net.init_args.embedding=16", "--model.sampler.steps=2",
        "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.logger=false",
        "--trainer.accelerator=cpu", f"--trainer.default_root_dir={home / 'run'}",
    ])  # fmt: skip
    return home / "run"
