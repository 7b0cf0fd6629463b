import json

import pytest
import torch

from diffwave_sde import audio
from diffwave_sde.data.sources import Rendered
from diffwave_sde.metrics import LogMel
from diffwave_sde.metrics.evaluation import (
    Discriminant,
    SoundSet,
    accuracy,
    balanced,
    evaluate,
    metric_results,
    neighbours,
)


def normal(n, size=3, mean=0.0, seed=0):
    return mean + torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def drums():
    clips = [Rendered("drums", i, 5).load(audio.LENGTH) for i in range(90)]
    sounds = torch.stack([torch.from_numpy(c.window).float() / 32768 for c in clips])
    labels = tuple(c.label for c in clips)
    return SoundSet(sounds[:60], labels[:60], "real"), SoundSet(sounds[60:], labels[60:], "others")


def test_the_floor_is_what_real_sounds_have_and_a_figure_of_the_same_law_meets_it():
    found = metric_results([(normal(200), normal(100, seed=1))], [40], 60, generator())
    for figure in found.values():
        assert abs(figure.value - figure.floor) < 4 * (figure.spread + figure.floor_spread) / 60**0.5 + 0.03
    away = metric_results([(normal(200), normal(100, mean=1.0, seed=1))], [40], 10, generator())
    assert away["frechet"].value == pytest.approx(3, rel=0.25)
    assert away["frechet"].floor == pytest.approx(found["frechet"].floor, rel=0.3)
    assert away["precision"].value < away["precision"].floor


def test_the_same_seed_gives_the_same_figures():
    a, b = (metric_results([(normal(50), normal(30, seed=1))], [20], 5, generator(3)) for _ in range(2))
    assert a == b
    assert a != metric_results([(normal(50), normal(30, seed=1))], [20], 5, generator(4))


def test_the_discriminant_is_fisher_s():
    # Two classes of one covariance: the border is the plane through the middle, tilted by its inverse.
    root = torch.tensor([[2.0, 0.0], [1.8, 0.4]], dtype=torch.float64)
    a, b = normal(4000, 2) @ root.mT, normal(4000, 2, seed=1) @ root.mT + torch.tensor([0.0, 2.0])
    classifier = Discriminant(torch.cat((a, b)), ["a"] * 4000 + ["b"] * 4000)
    fresh = normal(4000, 2, seed=2) @ root.mT
    told = classifier(torch.cat((fresh, fresh + torch.tensor([0.0, 2.0]))))
    right = sum(t == w for t, w in zip(told, ["a"] * 4000 + ["b"] * 4000, strict=True)) / 8000
    gap = torch.tensor([0.0, 2.0], dtype=torch.float64)
    d = float((gap @ (root @ root.mT).inverse() @ gap).sqrt())
    best = 0.5 * (1 + torch.erf(torch.tensor(d / 2 / 2**0.5))).item()  # Φ(d / 2)
    assert right == pytest.approx(best, abs=0.01)


def test_classes_asked_for_and_swapped():
    x, labels = torch.cat((normal(30), normal(30, mean=6.0))), ["a"] * 30 + ["b"] * 30
    y = torch.cat((normal(20, seed=1), normal(20, mean=6.0, seed=1)))
    good = accuracy(x, labels, y, ["a"] * 20 + ["b"] * 20)
    swapped = accuracy(x, labels, y, ["b"] * 20 + ["a"] * 20)
    assert (good.value, good.floor, swapped.value) == (1.0, 1.0, 0.0)


def test_what_was_learned_by_heart_is_found():
    real = normal(300, 10)
    own = neighbours(real, normal(100, 10, seed=1))
    assert own.close < 0.05
    assert own.duplicates < 0.05
    copied = neighbours(real, torch.cat((real[:50] + 1e-3, normal(50, 10, seed=1))))
    assert copied.close == pytest.approx(0.5, abs=0.05)
    assert copied.nearest[:50].tolist() == list(range(50))
    repeated = neighbours(real, normal(50, 10, seed=1).repeat(2, 1))
    assert repeated.duplicates == 1.0
    # Copies among some of the real ones do not hide it.
    assert neighbours(torch.cat((real, real[:250])), real[:20]).close == 1.0


def test_classes_weigh_alike():
    # Two classes far apart, in other shares on either side: that is no distance.
    strata = [(normal(40), normal(8, seed=1)), (normal(12, mean=50.0, seed=2), normal(60, mean=50.0, seed=3))]
    for counts in ([5, 5], [8, 2], [8, 0]):
        found = metric_results(strata, counts, 20, generator())
        assert found["frechet"].value < found["frechet"].floor + 3
        assert found["frechet"].value < 10


def test_everything_of_real_drums_is_at_its_floor(drums):
    real, others = drums
    seen = []
    found = evaluate(real, others, [LogMel()], resamples=6, progress=lambda *step: seen.append(step[1:]))
    table = found["embeddings"]["log-mel"]
    assert set(table) == {"all", "cymbal", "kick", "snare"}
    assert table["all"]["count"] == 30
    assert table["kick"]["count"] == 10
    assert table["all"]["frechet"]["value"] < 1.5 * table["all"]["frechet"]["floor"]
    assert table["all"]["accuracy"]["value"] > 0.9
    assert found["measurements"]["peak"]["difference"] < 0.4
    assert found["neighbours"]["close"] < 0.2
    json.dumps(found)
    assert [done for done, _ in seen] == list(range(len(seen)))
    assert seen[-1][0] == seen[-1][1]


def test_a_small_class_takes_nothing_from_the_others(drums):
    real, others = drums
    kicks = [i for i, label in enumerate(real.labels) if label == "kick"]
    for few, told in ((5, 22), (1, 20)):  # the other two classes have ten of each set and of the second half
        rows = sorted(set(range(60)) - set(kicks[few:]))
        found = evaluate(real.of(torch.tensor(rows)), others, [LogMel()], resamples=6)
        table = found["embeddings"]["log-mel"]["all"]
        assert table["count"] == told
        assert table["frechet"]["value"] < 1.5 * table["frechet"]["floor"]
        assert found["left_out"] == (["kick"] if few == 1 else [])


def test_classes_have_the_same_shares_in_both_sets():
    strata = [(torch.arange(40), torch.arange(8)), (torch.arange(40, 52), torch.arange(8, 68))]
    mine, theirs = balanced(strata)  # 8 and 12 are in both
    assert [int((mine < 40).sum()), int((mine >= 40).sum())] == [8, 12]
    assert [int((theirs < 8).sum()), int((theirs >= 8).sum())] == [8, 12]
    alike = [(torch.arange(40), torch.arange(8)), (torch.arange(40, 70), torch.arange(8, 16))]
    assert [len(rows) for rows in balanced(alike)] == [60, 16]


def test_hiss_is_told_by_distance_and_by_measurement(drums):
    real, others = drums
    noise = 1e-3 * torch.randn(others.sounds.shape, generator=generator())
    found = evaluate(real, SoundSet(others.sounds + noise, others.labels), [LogMel()], resamples=4)
    figure = found["embeddings"]["log-mel"]["all"]["frechet"]
    same = evaluate(real, others, [LogMel()], resamples=4)["embeddings"]["log-mel"]["all"]["frechet"]
    assert figure["value"] > same["value"] + 3 * same["spread"]
    before = found["measurements"]["floor_before"]
    assert before["generated"][1] == pytest.approx(-60, abs=1)
    assert before["difference"] > 0.9


def test_sets_without_classes_are_compared_as_a_whole(drums):
    real, others = drums
    found = evaluate(real, SoundSet(others.sounds, ("",) * len(others.sounds)), [LogMel()], resamples=2)
    assert set(found["embeddings"]["log-mel"]) == {"all"}
    assert "accuracy" not in found["embeddings"]["log-mel"]["all"]


def test_too_few_sounds_are_refused(drums):
    with pytest.raises(ValueError, match="3 real and 30 generated"):
        evaluate(drums[0].of(torch.arange(3)), drums[1], [LogMel()])
    with pytest.raises(ValueError, match="2 labels for 3 sounds"):
        SoundSet(torch.zeros(3, 5), ("a", "b"))
