"""A folder of made sounds grows batch by batch, and keeps what was made in the same way."""

import json
import math

import pytest
import torch

from diffwave_sde import audio
from diffwave_sde.metrics.sets import Reader
from diffwave_sde.sounds.folder import SoundFolder

RATE = 44_100


def draw(numbers, report):
    """Sounds that tell their number by their level."""
    report(1, 2)
    return torch.tensor(numbers)[:, None].add(1) * torch.full((len(numbers), 64), 0.1), 7


def numbers_asked(folder, labels):
    """The numbers that a folder lets be made."""
    asked = []
    filled = folder.fill(labels, lambda numbers, report: asked.extend(numbers) or draw(numbers, report), RATE, 2)
    assert (filled.kept, filled.made) == (len(labels) - len(asked), len(asked))
    return asked


def test_a_folder_makes_what_it_lacks_and_no_more(tmp_path):
    labels = ["kick", "snare", "kick"]
    assert numbers_asked(SoundFolder(tmp_path, {"seed": 1}), labels) == [0, 1, 2]
    assert numbers_asked(SoundFolder(tmp_path, {"seed": 1}), labels) == []
    (tmp_path / "001-snare.wav").unlink()
    assert numbers_asked(SoundFolder(tmp_path, {"seed": 1}), [*labels, "kick"]) == [1, 3]
    assert numbers_asked(SoundFolder(tmp_path, {"seed": 1}), ["snare"]) == [0]
    assert numbers_asked(SoundFolder(tmp_path, {"seed": 2}), labels) == [0, 1, 2]


def test_what_was_made_before_a_failure_is_there(tmp_path):
    def stops(numbers, report):
        if numbers[0] > 1:
            raise RuntimeError("stopped")
        return draw(numbers, report)

    with pytest.raises(RuntimeError, match="stopped"):
        SoundFolder(tmp_path, {}, "{nfe} calls").fill(["kick"] * 4, stops, RATE, 2)
    told = json.loads((tmp_path / "sounds.json").read_text())["sounds"]
    assert [(one["number"], one["peak_dbfs"]) for one in told] == [(0, -20.0), (1, -13.98)]
    assert "7 calls" in (tmp_path / "index.html").read_text()


def test_progress_counts_what_is_there_and_the_middle_of_a_batch(tmp_path):
    said = []
    SoundFolder(tmp_path, {}).fill(["kick"], draw, RATE, 2)
    SoundFolder(tmp_path, {}).fill(["kick"] * 3, draw, RATE, 2, lambda *done: said.append(done))
    assert said == [(2.0, 3)]


@pytest.mark.parametrize(("subtype", "peak"), [("FLOAT", 1.2), ("PCM_24", 1.0)])
def test_what_lies_beyond_full_scale_is_told_and_cut_by_integers_alone(tmp_path, subtype, peak):
    folder = SoundFolder(tmp_path, {}, subtype=subtype)
    folder.fill(["kick"] * 12, draw, RATE)  # peaks of 0.1, 0.2, ... 1.2
    assert [sound["number"] for sound in folder.beyond] == [11, 10]
    assert folder.beyond[0]["peak_dbfs"] == pytest.approx(20 * math.log10(1.2), abs=0.01)
    assert float(audio.read(tmp_path / "011-kick.wav")[0].abs().max()) == pytest.approx(peak, abs=1e-6)


def test_a_class_that_is_spelt_already_is_spelt_once(tmp_path):
    labels = [r"caf\xe9"]  # as a store has it, for a folder whose name is not UTF-8
    SoundFolder(tmp_path, {}).fill(labels, draw, RATE)
    assert json.loads((tmp_path / "sounds.json").read_text())["sounds"][0]["label"] == labels[0]
    assert Reader().generated(str(tmp_path)).labels == tuple(labels)
    assert numbers_asked(SoundFolder(tmp_path, {}), labels) == []
