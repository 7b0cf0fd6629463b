"""What the benchmark of conditioning measures: true parts near 1, those of other tracks near chance."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from diffwave_sde.data import pairs

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def conditioning():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("benchmark_of_conditioning", FOLDER / "conditioning.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_agreement_tells_true_parts_from_those_of_other_tracks(conditioning):
    _, parts, scores = conditioning.arrangements(24, pairs.RATE, 24_000)
    pitch, pitch_floor, onset, onset_floor = map(float, conditioning.row("", parts, scores, pairs.RATE)[1:])
    assert pitch > 0.8
    assert onset > 0.9
    assert pitch_floor < 0.25
    assert onset_floor < 0.4
    silent = [np.zeros(24_000)] * 24
    assert [float(cell) for cell in conditioning.row("", silent, scores, pairs.RATE)[1:]] == [0, 0, 0, 0]
