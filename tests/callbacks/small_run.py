"""A run that is small but whole: sounds in a folder, a store, a small U-Net, Lightning's trainer."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Trainer

from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import UNet
from diffwave_sde.samplers import DDIM

LENGTH = 1000


def make_data(folder: Path, batch_size: int = 4) -> AudioDataModule:
    return AudioDataModule(str(folder / "sounds"), str(folder / "root"), LENGTH, batch_size=batch_size, workers=0)


def make_model(classes: int = 2, **options) -> DiffusionModule:
    torch.manual_seed(1)
    net = UNet(1, classes, channels=(8, 8), factors=(5,), blocks=1, embedding=16, heads=2, dropout=0.1)
    options = {"optimizer": lambda p: torch.optim.AdamW(p, lr=3e-3), "sampler": DDIM(3), **options}
    return DiffusionModule(net, **options)


def make_trainer(folder: Path, callbacks=(), **options) -> Trainer:
    torch.set_num_threads(1)
    options = {
        "accelerator": "cpu", "devices": 1, "max_steps": 6, "max_epochs": -1, "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
        "num_sanity_val_steps": 0, "limit_val_batches": 0, "default_root_dir": folder, **options,
    }  # fmt: skip
    return Trainer(callbacks=list(callbacks), **options)
