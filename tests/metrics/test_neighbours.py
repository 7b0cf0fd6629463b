"""The nearest training clip of a sound is found, and how near it is for a new one is told as the law has it."""

import numpy as np
import pytest
import torch

from diffwave_sde import audio
from diffwave_sde.data.build import prepare
from diffwave_sde.metrics import neighbours
from diffwave_sde.metrics.neighbours import Index

COUNT = 240


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare("drums", tmp_path_factory.mktemp("data"), length=6000, count=COUNT, workers=0, progress=False)


def index(store, train, held_out=()):
    return Index(store, np.asarray(train), np.asarray(held_out, np.int64), "some")


def test_a_copy_is_found_first_though_later_softer_upside_down_or_longer(store):
    found = index(store, range(200), range(200, COUNT))
    x = found.clips([17])[0]
    later = torch.cat((torch.zeros(2000), -0.2 * x, torch.zeros(99)))
    other = found.clips([220])[0]
    same, moved, new, silent = found.find(torch.stack([
        torch.nn.functional.pad(sound, (0, len(later) - len(sound))) for sound in (x, later, other, torch.zeros(9))
    ]))  # fmt: skip
    for one in (same, moved):
        assert (one.row, one.nearer, one.suspicious) == (17, 1.0, True)
        assert one.distance < 0.01
        assert one.alike > 0.999
        assert one.file == "drums/0/000017"
        assert one.label == store.labels[store.label_ids[17]]
    assert new.row < 200
    assert new.distance > 0.5
    assert new.alike < 0.99
    assert silent.alike == 0
    # From outside the training clips it is no copy: the nearest of those is told of.
    assert index(store, range(100, 200)).find(x[None])[0].row >= 100


@pytest.mark.parametrize("held_out", [110, 20])  # as many as it takes; too few, so that training clips join them
def test_new_sounds_have_all_ranks_alike_often(store, held_out):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        train, rest, new = np.split(rng.permutation(COUNT), [110, 110 + held_out])
        one = index(store, train, rest)
        assert len(one.reference) == (held_out if held_out >= 99 else 110 + held_out)
        distances, _ = one.nearest(one.vectors[new[:20]])
        shares += [one.nearer(d) for d in distances.tolist()]
    shares = np.array(shares)
    # 1,200 shares, those of one split with their real sounds in common: within 4 standard deviations of their means
    for level in (0.1, 0.5, 0.9):
        assert abs((shares >= 1 - level).mean() - level) < 4 * np.sqrt(level * (1 - level) * (1 / 1200 + 1 / 60 / 20))


def test_an_index_is_made_once_and_anew_where_the_store_or_the_file_is_another(store, monkeypatch):
    asked = []
    whole = neighbours.LogMel.__call__
    monkeypatch.setattr(neighbours.LogMel, "__call__", lambda self, x: asked.append(len(x)) or whole(self, x))
    (file,) = store.path.glob("neighbours-*")
    vectors = index(store, range(9)).vectors
    assert asked == []
    file.write_bytes(file.read_bytes()[:2000])
    assert torch.equal(index(store, range(9)).vectors, vectors)
    assert sum(asked) == COUNT
    with np.load(file) as kept:
        np.savez(file, key="of another store", vectors=kept["vectors"])
    assert torch.equal(index(store, range(9)).vectors, vectors)
    assert sum(asked) == 2 * COUNT
    assert list(store.path.glob(".*tmp")) == []


def test_near_copies_among_the_real_sounds_do_not_make_copies_look_usual(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        x = torch.from_numpy(rng.standard_normal(3000) * np.exp(-np.arange(3000) / 600)).float() * 0.1
        for copy, gain in enumerate((1.0, 0.5) if i < 6 else (1.0,)):
            audio.write(tmp_path / "in" / "a" / f"{i}-{copy}.wav", gain * x, audio.RATE)
    found = Index.of_dataset(str(tmp_path / "in"), 3000)
    assert len(np.unique(found.store.groups)) == 12
    assert len(found.reference) == 18
    assert float(found.reference[0]) > 0.1
    with pytest.raises(ValueError, match="2 at least"):
        index(found.store, [0])
