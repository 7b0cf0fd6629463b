"""The fixtures of a small run (small_run.py)."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from small_run import LENGTH, make_data, make_model, make_trainer

from diffwave_sde import audio


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
