"""Classes, kits, files and folders may be called whatever a file system lets them be called."""

import os
import pickle

import numpy as np
import pytest
import soundfile

from diffwave_sde import audio
from diffwave_sde.data.build import prepare
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.data.sources import parts
from diffwave_sde.data.store import Store
from diffwave_sde.names import escape, unescape

LENGTH = 500
NAMES = [
    os.fsdecode(name)
    for name in (
        b"kick", b"caf\xe9", "caf\u00e9".encode(), "\u5927\u9f13".encode(), b"\xff\xfe", b"808", b"007", b"on", b"1e3",
        b"null", b"~", b"a + b", b"two\nlines", b"tab\t", b"back\\slash", b"\\xe9",
        b"quo'te\"", b"[x]", b"a,b;c", b"$x",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A kit with a class of each name, in each of which is a file of that name."""
    home = tmp_path_factory.mktemp("names") / "in"
    for k, name in enumerate(NAMES):
        (home / os.fsdecode(b"kit\xe9") / name).mkdir(parents=True)
        x = np.random.default_rng(k).normal(0, 0.1, 900)
        soundfile.write(os.fsencode(home / os.fsdecode(b"kit\xe9") / name / f"{name}.wav"), x, 44_100)
    (home / "other" / "kick").mkdir(parents=True)
    soundfile.write(home / "other" / "kick" / "1.wav", x[::-1], 44_100)
    (home / "other" / "kick" / os.fsdecode(b"empt\xff.wav")).write_bytes(b"")
    return home


def open_store(folder, **options) -> Store:
    return prepare(str(folder), folder.parent / "data", LENGTH, workers=0, progress=False, **options)


def test_any_name_is_stored_listed_and_comes_back(folder):
    store = open_store(folder, group_by="folder")
    assert sorted(unescape(label) for label in store.labels) == sorted(NAMES)
    assert all(label.isprintable() for label in store.labels)
    for file in store.path.iterdir():
        if file.suffix in (".csv", ".json"):
            file.read_text(encoding="utf-8")
    for line in store.manifest():
        if line["row"]:
            label = store.labels[store.label_ids[int(line["row"])]]
            assert line["file"].split("/")[-2] == unescape(line["label"]) == unescape(label)
            x, _ = audio.read(folder / line["file"])
            assert np.abs(store.read([int(line["row"])])[0] / 32768 - audio.window(x, LENGTH).numpy()).max() < 1e-4
    assert store.refused() == [("other/kick/" + os.fsdecode(b"empt\xff.wav"), "empty: no bytes")]
    assert set(store.groups) == {r"kit\xe9", "other"}
    again = pickle.loads(pickle.dumps(store))
    assert (again.labels, again.groups.tolist()) == (store.labels, store.groups.tolist())
    matched = Store.open(store.path, group_by="([^/]+)/[^/]+/[^/]+$")
    assert set(matched.groups) == {os.fsdecode(b"kit\xe9"), "other"}


@pytest.mark.parametrize("name", NAMES, ids=escape)
def test_a_class_is_asked_for_by_its_name_and_by_its_spelling(folder, name):
    for asked in (name, escape(name)):
        assert open_store(folder, classes=[asked]).labels == (escape(name),)


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        (808, ("808",)),
        (True, ("on",)),
        (7, ("007",)),
        (1000.0, ("1e3",)),
        ([808, "kick"], ("808", "kick")),
    ],
)
def test_what_yaml_makes_of_a_name_is_that_class(folder, asked, labels):
    data = AudioDataModule(str(folder), str(folder.parent / "data"), LENGTH, workers=0, classes=asked)
    assert data.labels == labels


@pytest.mark.parametrize("asked", [False, 809, 1, "snare"])
def test_what_is_no_class_is_refused_in_one_line_that_says_what_to_type(folder, asked):
    with pytest.raises(ValueError, match=r"808") as caught:
        open_store(folder, classes=[asked])
    assert str(caught.value).isprintable()
    if asked != "snare":
        assert """put names in quotes, such as --data.classes '[""" in str(caught.value)


def test_what_could_be_two_classes_is_refused_with_both(folder):
    with pytest.raises(ValueError, match=r"""None is no text,.* it could mean null and ~: .*'\["null"\]'$"""):
        open_store(folder, classes=[None])


def test_a_folder_with_a_plus_in_its_name_is_one_of_several_with_an_escape(folder):
    home = folder / os.fsdecode(b"kit\xe9") / "a + b"
    typed = str(home).replace(" + ", r" \+ ")
    assert parts(f"drums + {typed} + synth") == ["drums", typed, "synth"]
    store = prepare(f"synth + {typed}", folder.parent / "data", LENGTH, count=7, workers=0, progress=False)
    assert len(store) == 7 + 1
    with pytest.raises(ValueError, match=r"no such folder.*a plus in a name is typed \\\+"):
        prepare(f"synth + {home}", folder.parent / "data", LENGTH, count=7, progress=False)


def test_root_dataset_and_disks_may_begin_with_home_or_a_variable(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SOUNDS", str(folder.parent))
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path)
    data = AudioDataModule("$SOUNDS/in", "~/data", LENGTH, workers=0, disks=["$HOME/one", "~/two"])
    assert data.store.path.is_relative_to(tmp_path / "home" / "data")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["data", "one", "two"]
    for options in ({"dataset": "$UNSET/in"}, {"root": "$UNSET/data"}, {"root": "~/new", "disks": ["$UNSET/one"]}):
        with pytest.raises(ValueError, match="the variable UNSET is not set"):
            AudioDataModule(**({"dataset": "$SOUNDS/in", "root": "~/data", "length": LENGTH} | options)).setup()
    assert os.listdir(tmp_path) == ["home"]
