"""Whether parts follow their tracks: the true ones do, those of other tracks do not, and chance is told from both."""

import json
import math

import numpy as np
import pytest
from paired_run import LENGTH, RATE

from diffwave_sde import audio
from diffwave_sde.cli import main
from diffwave_sde.data import pairs
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.metrics.agreement import FIGURES, Heard, agreement, asked_for, follow, measure_part
from diffwave_sde.metrics.sets import Reader


@pytest.fixture(scope="module")
def arranged():
    """24 arrangements: parts and scores."""
    made = [pairs.render(i, 1, pairs.RATE, 24_000) for i in range(24)]
    return [part for _, part, _ in made], [score for *_, score in made]


def test_agreement_tells_true_parts_from_those_of_other_tracks_and_from_silence(arranged):
    parts, scores = arranged
    found = follow(parts, parts, pairs.RATE, scores)
    assert (found["count"], found["asked"]) == (24, "score")
    for name, least, most in (("pitch", 0.8, 0.2), ("onset", 0.9, 0.3)):
        figure = found[name]
        assert figure["value"] == figure["ceiling"] > least
        assert figure["shuffled"] == figure["floor"] < most
        assert figure["p"] == 1e-4
    others = follow(parts[1:] + parts[:1], parts, pairs.RATE, scores)
    assert others["pitch"]["value"] < 0.2
    assert others["pitch"]["p"] > 0.05
    silent = follow([np.zeros(24_000)] * 24, parts, pairs.RATE, scores)
    assert [silent[name]["value"] for name in FIGURES] == [0, 0]
    assert silent["pitch"]["p"] == 1


def test_without_a_score_the_true_part_is_what_is_asked_for(arranged):
    parts, _ = arranged
    g = np.random.default_rng(0)
    noisy = [x + 0.01 * g.standard_normal(len(x)) for x in parts]
    found = follow(noisy, parts, pairs.RATE)
    assert found["asked"] == "true part"
    for name in FIGURES:
        assert found[name]["ceiling"] == 1
        assert 0.6 < found[name]["value"] < 1
        assert found[name]["p"] == 1e-4


def test_chance_is_as_often_significant_as_it_says():
    g, below = np.random.default_rng(1), 0
    for trial in range(200):
        heard = [[Heard(g.integers(0, 12, 40), np.zeros(0)) for _ in range(8)] for _ in range(2)]
        found = agreement(*heard, FIGURES["pitch"], trial)
        below += found.p < 0.1
    assert abs(below / 200 - 0.1) < 3 * math.sqrt(0.1 * 0.9 / 200)


def test_where_nothing_is_asked_for_nothing_counts(arranged):
    quiet = measure_part(np.zeros(8_000), 8_000)
    parts = [measure_part(x, pairs.RATE) for x in arranged[0][:3]]
    asked = [asked_for(score, 24_000, pairs.RATE) for score in arranged[1][:3]]
    assert math.isnan(agreement([*parts, quiet], [quiet] * 4, FIGURES["pitch"]).value)
    three, four = (agreement(parts + more, asked + more, FIGURES["pitch"]) for more in ([], [quiet]))
    assert three.value == four.value


def test_held_out_pairs_are_none_that_were_trained_on_and_have_their_scores(tmp_path):
    data = AudioDataModule("bass", str(tmp_path), length=6_000, rate=11_025, mu=0, count=30, workers=0)
    held = Reader().held_out(data, 100)
    trained = audio.from_int16(data.store.read(data.splits["train"])).view(-1, 6_000)
    assert len(held.parts) == len(data.splits["validation"]) + len(data.splits["test"])
    assert not any(bool((part == trained).all(1).any()) for part in held.parts)
    for part, context, score in zip(held.parts, held.contexts, held.scores, strict=True):
        index = next(i for i in range(30) if pairs.score(i, 0, 6_000 / 11_025) == score)
        for got, rendered in zip((context, part), pairs.render(index, 0, 11_025, 6_000)[:2], strict=True):
            assert np.abs(got.numpy() - rendered).max() <= 0.5 / 32768 + 1e-7
    assert held.sounds.sounds.shape[1] == 4 * 6_000


@pytest.mark.filterwarnings("ignore:no clips are set aside")
def test_where_nothing_was_held_out_that_is_said(tmp_path):
    data = {"length": 6_000, "rate": 11_025, "mu": 0, "count": 6, "workers": 0}
    held = Reader().held_out(AudioDataModule("bass", str(tmp_path), validation=0.3, test=0.0, **data), 100)
    assert len(held.parts) == 2
    with pytest.raises(ValueError, match="no pairs of bass were held out"):
        Reader().held_out(AudioDataModule("bass", str(tmp_path), validation=0.0, test=0.0, **data), 100)


def test_evaluate_makes_parts_for_pairs_that_were_held_out(run, tmp_path, capsys):
    options = ["--n", "6", "--resamples", "2", "--device", "cpu", "--embedding", "log-mel", "--out", str(tmp_path)]
    main(["evaluate", "--ckpt", str(run), *options])
    said = capsys.readouterr().out
    assert "do 6 parts follow their tracks? By the true part of each" in said
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["agreement"]["pitch"]["ceiling"] == 1
    assert found["real"].startswith("held-out parts of")
    [listed] = run.glob("evaluation/*/sounds.json")
    sounds = json.loads(listed.read_text())["sounds"]
    assert len({sound["context"] for sound in sounds}) == 6
    songs = [audio.decode(file)[0] for file in (run.parent / "songs").glob("*/mix.wav")]
    windows = [song[k : k + LENGTH] for song in songs for k in range(0, len(song), LENGTH)]
    for sound in sounds:
        context, rate = audio.decode(listed.parent / sound["context"])
        assert rate == RATE
        assert min(float((context - window).abs().max()) for window in windows) < 1e-4
