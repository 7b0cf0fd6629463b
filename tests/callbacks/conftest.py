"""A run that is small but whole: sounds in a folder, a store, a small U-Net, Lightning's trainer."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from diffwave_sde import audio
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import UNet
from diffwave_sde.samplers import DDIM

LENGTH = 1000


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> Path:
    """A folder with eleven decaying tones of each of two classes."""
    folder = tmp_path_factory.mktemp("sounds")
    t = torch.arange(2 * LENGTH) / audio.RATE
    for name, hz in (("low", 300.0), ("high", 3000.0)):
        for i in range(11):
            tone = (2 * math.pi * hz * (1 + i / 20) * t).sin() * (-t * 200).exp() * 0.8
            audio.write(folder / "sounds" / name / f"{i}.wav", tone)
    return folder


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


@pytest.fixture
def data(sounds):
    """Makes a datamodule of them: 16 clips or so to train on."""
    return partial(make_data, sounds)


@pytest.fixture
def model():
    """Makes a module, the same one every time."""
    return make_model


@pytest.fixture
def trainer(tmp_path):
    """Makes a trainer on one CPU that writes into `tmp_path`."""
    return partial(make_trainer, tmp_path)
