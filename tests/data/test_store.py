import gc
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from diffwave_sde import audio
from diffwave_sde.data import builtin, items, sources
from diffwave_sde.data.build import prepare
from diffwave_sde.data.journal import Journal
from diffwave_sde.data.shards import Shards
from diffwave_sde.data.store import Store

SHORT = 2_000  # samples: these tests are about files


def hit(seed: int, samples: int = 3_000) -> np.ndarray:
    generator = np.random.default_rng(seed)
    decay = np.exp(-np.arange(samples) / 600)
    return (0.5 * decay * generator.normal(0, 0.3, samples)).clip(-1, 1)


def write(path: Path, x: np.ndarray, rate: int = 44_100, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), x, rate, subtype, format="FLAC" if path.suffix == ".flac" else "WAV")


@pytest.fixture
def folder(tmp_path) -> Path:
    for kit in ("A", "B"):
        for label in ("kick", "snare"):
            for k in range(3):
                write(tmp_path / "in" / kit / label / f"{k}.wav", hit(ord(kit) * 100 + len(label) * 10 + k))
    return tmp_path / "in"


def build(folder, tmp_path, **options) -> Store:
    return prepare(str(folder), tmp_path / "data", **({"length": SHORT, "progress": False} | options))


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != "index.npz"}


def test_a_folder_becomes_rows_with_the_class_of_their_folder(folder, tmp_path):
    it = build(folder, tmp_path)
    assert it.labels == ("kick", "snare")
    assert len(it) == 12
    assert it.rejected == 0
    assert it.clips.shape == (12, SHORT)
    assert it.clips.dtype == np.int16
    lines = list(it.manifest())
    assert [int(line["row"]) for line in lines] == list(range(12))
    for line in lines:
        row = int(line["row"])
        assert it.labels[it.label_ids[row]] == line["label"] == line["file"].split("/")[1]
        assert it.digests[row].decode() == line["digest"]
        x, rate = audio.read(folder / line["file"])
        assert (float(line["seconds"]), int(line["rate"])) == (pytest.approx(len(x) / rate, abs=1e-4), 44_100)
        # half a step of 16 bits: rounded, not dithered
        assert np.abs(it.clips[row] / 32768 - audio.window(x, SHORT).numpy()).max() <= 0.5 / 32768 + 1e-9


def test_rows_read_in_any_order_are_those_of_the_array(folder, tmp_path):
    it = build(folder, tmp_path)
    rows = [5, 0, 11, 5]
    assert np.array_equal(it.read(rows), np.load(it.path / "clips.npy")[rows])
    for wrong in (-1, 12):
        with pytest.raises(IndexError):
            it.read([wrong])


def test_reading_a_whole_epoch_keeps_none_of_it_in_memory(folder, tmp_path):
    it, rows = build(folder, tmp_path), 20_000
    with open(it.path / "clips.npy", "r+b") as file:  # 840 MB of silence that take no room
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i2", "fortran_order": False, "shape": (rows, audio.LENGTH)}
        )
        os.truncate(file.fileno(), file.tell() + rows * audio.LENGTH * 2)
    shards = Shards((it.path / "clips.npy",), rows, audio.LENGTH)
    large = replace(it, label_ids=np.zeros(rows, np.int64), length=audio.LENGTH, shards=shards)

    def resident() -> int:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmRSS"].split()[0]) // 1000

    before = resident()
    for batch in np.random.default_rng(0).permutation(rows).reshape(-1, 16):
        large.read(batch)
    assert resident() - before < 50


def test_a_store_travels_to_another_process_by_name(folder, tmp_path):
    it = build(folder, tmp_path, group_by="folder")
    assert len(it.clips) == 12
    sent = pickle.dumps(it)
    assert len(sent) < 1_000
    copy = pickle.loads(sent)
    assert np.array_equal(copy.read([3]), it.read([3]))
    assert list(copy.groups) == list(it.groups)


def test_files_in_the_folder_itself_are_of_one_class_with_its_name(tmp_path):
    write(tmp_path / "claps" / "a.wav", hit(0))
    write(tmp_path / "claps" / "b.wav", hit(1))
    assert build(tmp_path / "claps", tmp_path).labels == ("claps",)


# ---------------------------------------------------------------------------------------------- bad files


def test_no_bad_file_stops_the_build_and_each_is_listed_with_its_reason(folder, tmp_path):
    x = hit(7, 9_000)
    bad = folder / "A" / "kick"
    write(bad / "whole.wav", hit(99, 9_000))
    (bad / "cut.wav").write_bytes((bad / "whole.wav").read_bytes()[:9_000])
    (bad / "empty.wav").write_bytes(b"")
    write(bad / "silent.wav", 0 * x)
    write(bad / "dc.wav", 0 * x + 0.3)
    write(bad / "one.wav", x[:1])
    write(bad / "nan.wav", np.where(np.arange(9_000) == 5, np.nan, x), subtype="FLOAT")
    (bad / "text.wav").write_text("not a sound")
    (bad / "notes.txt").write_text("not a sound")
    (bad / "noname").write_bytes(os.urandom(3_000))
    (bad / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(bad / "pipe.wav")
    (bad / "folder.wav").mkdir()
    (bad / "._0.wav").write_bytes(b"Mac OS X")
    (folder / "__MACOSX").mkdir()
    shutil.copy(bad / "0.wav", folder / "__MACOSX" / "0.wav")
    os.symlink(folder, bad / "cycle")
    it = build(folder, tmp_path)
    reasons = {name.rpartition("/")[2]: reason for name, reason in it.refused()}
    expected = {
        "cut.wav": "truncated", "empty.wav": "empty", "silent.wav": "silent", "dc.wav": "silent", "one.wav": "silent",
        "nan.wav": "NaN", "text.wav": "not readable", "notes.txt": "not audio", "noname": "not readable",
        "gone.wav": "dangling link", "pipe.wav": "not a file",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
        assert str(tmp_path) not in reasons[name]
    assert it.rejected == len(expected)
    assert len(it) == 13
    # rows that were moved into gaps are still the rows of their files
    for line in it.manifest():
        if line["row"]:
            y, _ = audio.read(folder / line["file"])
            assert np.abs(it.clips[int(line["row"])] / 32768 - audio.window(y, SHORT).numpy()).max() < 2e-5


def test_unusual_files_are_usable(tmp_path):
    folder, x = tmp_path / "in", hit(3)
    for subtype in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        write(folder / f"{subtype}.wav", x, subtype=subtype)
    write(folder / "six.wav", np.stack([x] * 6, 1))
    write(folder / "slow.wav", x, 8_000)
    write(folder / "fast.wav", x, 96_000)
    write(folder / "long.wav", np.tile(x, 1_000))
    write(folder / "loud.wav", 40 * x, subtype="FLOAT")
    write(folder / "ü ñ 鼓.wav", x)
    write(folder / 'new\nline,"comma".wav', x)
    write(folder / os.fsdecode(b"latin\xe9.wav"), x)
    it = build(folder, tmp_path)
    assert it.refused() == []
    assert len(it) == 13
    files = {line["file"] for line in it.manifest()}
    assert files == set(os.listdir(folder))
    long = next(line for line in it.manifest() if line["file"] == "long.wav")
    assert float(long["seconds"]) == items.SECONDS
    assert np.abs(it.clips).max(1).min() > 0.94 * 32768


def test_the_same_sound_in_two_files_has_one_digest(folder, tmp_path):
    x = (hit(5) * 32_767).astype(np.int16)
    write(folder / "A" / "kick" / "x.wav", x)
    write(folder / "B" / "kick" / "y.flac", x)
    it = build(folder, tmp_path)
    digests = {line["file"]: line["digest"] for line in it.manifest()}
    assert digests["A/kick/x.wav"] == digests["B/kick/y.flac"]
    assert len(set(digests.values())) == len(it) - 1


def test_no_usable_file_is_an_error_that_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=r"no usable sound.*no files"):
        build(tmp_path / "in", tmp_path)
    (tmp_path / "in" / "a.wav").write_text("x")
    with pytest.raises(ValueError, match=r"no usable sound.*1 files.*a\.wav"):
        build(tmp_path / "in", tmp_path)
    assert [name for name in os.listdir(tmp_path / "data" / "stores") if not name.endswith(".lock")] == []


@pytest.mark.parametrize(("dataset", "message"), [
    ("durms", "unknown dataset 'durms'; known: drums, synth, loops, bass, hydrogen, sonic-pi, fluid, musescore, "
              "drums-free, or the path of a folder"),
    ("/no/such/folder", "/no/such/folder: no such folder"),
    (__file__, "is not a folder"),
])  # fmt: skip
def test_a_wrong_name_is_one_line_that_lists_the_known_ones(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=message) as caught:
        prepare(dataset, tmp_path)
    assert "\n" not in str(caught.value)
    assert "hydrogen" in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [{"length": -1}, {"length": 0}, {"workers": -1}, {"count": 0}, {"seed": -1}])
def test_an_argument_out_of_range_is_an_error_that_names_it(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        prepare("drums", tmp_path, **options)


# ------------------------------------------------------------------------------- several, or a part of one


def test_joined_datasets_hold_the_clips_of_each(folder, tmp_path):
    options = {"root": tmp_path / "data", "length": SHORT, "count": 6, "progress": False}
    one, other = prepare(str(folder), **options), prepare("drums", **options)
    both = prepare(f"{folder} + drums", **options)
    assert both.labels == ("cymbal", "kick", "snare")
    assert np.array_equal(both.clips, np.concatenate((one.clips, other.clips)))
    names = [it.labels[i] for it in (one, other) for i in it.label_ids]
    assert [both.labels[i] for i in both.label_ids] == names
    assert sorted(both.digests) == sorted((*one.digests, *other.digests))


def test_kits_of_one_stay_together_where_the_other_has_none(folder, tmp_path):
    both = prepare(f"drums+{folder}", tmp_path, SHORT, count=6, group_by="folder", progress=False)
    assert len(set(both.groups[:6])) == 6
    assert both.groups[6:].tolist() == ["A"] * 6 + ["B"] * 6


def test_a_folder_with_a_plus_in_its_name_is_one_folder(folder, tmp_path):
    folder.rename(tmp_path / "a + b")
    assert len(build(tmp_path / "a + b", tmp_path)) == 12


def test_only_the_classes_that_are_asked_for_are_taken(folder, tmp_path):
    it = prepare(f"drums + {folder}", tmp_path, SHORT, count=6, classes=["kick", "cymbal"], progress=False)
    assert it.labels == ("cymbal", "kick")
    assert np.bincount(it.label_ids).tolist() == [2, 2 + 6]
    whole = prepare(f"drums + {folder}", tmp_path, SHORT, count=6, progress=False)
    wanted = [whole.labels[i] in it.labels for i in whole.label_ids]
    assert np.array_equal(it.clips, whole.clips[wanted])


@pytest.mark.parametrize(("dataset", "options", "message"), [
    ("drums", {"classes": ["tom"]}, "drums-6 has no class 'tom'; it has cymbal, kick, snare"),
    ("in", {"licence": "CC0"}, "in has no sound under a licence that begins with CC0; it has none told"),
    ("in", {"licence": "("}, "licence '.' is not a regular expression"),
    ("drums + drums", {}, "names drums twice"),
    ("drums + ", {}, "unknown dataset ''; known: drums"),
])  # fmt: skip
def test_what_is_not_there_is_one_line_that_says_what_is(folder, tmp_path, dataset, options, message):
    dataset = str(folder) if dataset == "in" else dataset
    with pytest.raises(ValueError, match=message) as caught:
        prepare(dataset, tmp_path, SHORT, count=6, progress=False, **options)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- rebuilt, or not


def test_nothing_is_loaded_again_while_nothing_has_changed(folder, tmp_path, monkeypatch):
    first = build(folder, tmp_path)
    monkeypatch.setattr(items.Recorded, "load", lambda *_: pytest.fail("loaded again"))
    (folder / "A" / "readme.md").write_text("a note is no input")
    (folder / ".DS_Store").write_text("nor is this")
    assert build(folder, tmp_path).path == first.path


@pytest.mark.parametrize("change", ["added", "removed", "touched", "moved", "length"])
def test_a_change_of_the_inputs_or_settings_rebuilds(folder, tmp_path, change):
    first, options = build(folder, tmp_path), {}
    file = folder / "A" / "kick" / "0.wav"
    if change == "added":
        write(file.with_name("9.wav"), hit(9))
    elif change == "removed":
        file.unlink()
    elif change == "touched":
        write(file, hit(1234))
    elif change == "moved":
        file.rename(folder / "A" / "snare" / "8.wav")
    else:
        options["length"] = SHORT + 1
    second = build(folder, tmp_path, **options)
    assert second.path != first.path
    assert len(second) == len(first) + {"added": 1, "removed": -1}.get(change, 0)


def test_ten_thousand_files_are_known_unchanged_well_within_a_second(tmp_path):
    for k in range(100):
        (tmp_path / str(k)).mkdir()
        for j in range(100):
            (tmp_path / str(k) / f"{j}.wav").touch()
    began = time.perf_counter()
    files, _, _ = sources.scan(tmp_path)
    assert len(files) == 10_000
    assert time.perf_counter() - began < 1.0


def test_a_store_that_lost_a_part_is_not_opened(folder, tmp_path):
    it = build(folder, tmp_path)
    os.truncate(it.path / "clips.npy", 1_000)
    with pytest.raises(ValueError, match="cut short"):
        Store.open(it.path)
    with pytest.raises(ValueError, match="not a store"):
        Store.open(folder)
    with np.load(it.path / "index.npz") as index:
        old = {key: index[key] for key in index.files if key != "copies"}
    np.savez(it.path / "index.npz", **old)
    with pytest.raises(ValueError, match="prepared by an earlier version; prepare the dataset anew"):
        Store.open(it.path)


# ---------------------------------------------------------------- the same bytes, whatever happens on the way


def test_the_bytes_do_not_depend_on_the_number_of_workers(folder, tmp_path):
    (folder / "A" / "bad.wav").write_text("x")
    alone = build(folder, tmp_path, workers=0)
    other = prepare(str(folder), tmp_path / "other", SHORT, workers=2, progress=False)
    assert content(alone.path) == content(other.path)
    assert np.array_equal(alone.digests, other.digests)


SCRIPT = """
import sys, time
from diffwave_sde.data import builtin
from diffwave_sde.data.build import prepare
plain = builtin.render
def render(*args):  # at most 100 a second: not done before it can be stopped
    time.sleep(0.01)
    return plain(*args)
builtin.render = render
if __name__ == "__main__":
    prepare("drums", sys.argv[1], length=2000, count=int(sys.argv[2]), workers=int(sys.argv[3]))
"""


def start(root: Path, count: int, workers: int = 0) -> subprocess.Popen:
    script = root.parent / "build.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, script, root, str(count), str(workers)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        # In the background of a shell Ctrl-C is ignored, and what is started there inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def journal_of(root: Path, process: subprocess.Popen) -> Path:
    """Waits until some rows are finished, and not all."""
    for _ in range(1200):
        found = list(root.glob("stores/*.partial/journal.jsonl"))
        if found and found[0].stat().st_size:
            return found[0]
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("nothing was built")


@pytest.mark.parametrize(("stop", "workers"), [(signal.SIGKILL, 0), (signal.SIGINT, 2)])
def test_a_build_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch, stop, workers):
    count = 400
    process = start(tmp_path / "data", count, workers)
    journal = journal_of(tmp_path / "data", process)
    os.killpg(process.pid, stop) if stop == signal.SIGINT else process.kill()
    process.wait(20)
    process.stderr.close()
    assert not list((tmp_path / "data").glob("stores/*/settings.json"))
    done = [json.loads(line)["i"] for line in journal.read_bytes().splitlines(True) if line.endswith(b"\n")]
    assert 0 < len(done) < count
    with open(journal, "ab") as file:  # as a crash within a write leaves it
        file.write(b'{"i": 12')

    rendered = []

    def render(collection, index, *args):
        rendered.append(index)
        return plain(collection, index, *args)

    plain = builtin.render
    monkeypatch.setattr(builtin, "render", render)
    resumed = prepare("drums", tmp_path / "data", SHORT, count, workers=0, progress=False)
    assert sorted(rendered + done) == list(range(count))
    for row in (0, done[-1], rendered[0], count - 1):
        assert np.array_equal(resumed.clips[row], items.Rendered("drums", row, 0).load(SHORT).window)
    assert not list((tmp_path / "data").glob("stores/*.partial"))


def test_a_stop_while_the_journal_reaches_the_disk_writes_nothing_twice(tmp_path, monkeypatch):
    class NoShards:
        def open(self):
            return []

    def interrupted(file):
        raise KeyboardInterrupt

    def stopped():
        with Journal(tmp_path / "journal", NoShards()) as journal:
            journal.append([{"i": 0}, {"i": 1}])
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", interrupted)
                journal.flush()

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [json.loads(line)["i"] for line in (tmp_path / "journal").read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("disks", [(), ("a", "b")], ids=["one disk", "two disks"])
@pytest.mark.parametrize("step", ["ftruncate", "rename", "savez"])
def test_a_crash_while_finishing_is_made_good_and_never_looks_whole(folder, tmp_path, monkeypatch, step, disks):
    disks = [tmp_path / name for name in disks]
    for k in range(3):
        (folder / "A" / f"bad{k}.wav").write_text("x")
    expected = build(folder, tmp_path / "other")
    module = np if step == "savez" else os if step == "ftruncate" else Path
    plain, cut = getattr(module, step), []

    def crash(*args, **kwargs):
        if step == "rename" and not str(args[0]).endswith(".partial"):
            return plain(*args, **kwargs)
        cut.append(args)
        if step == "ftruncate" and len(cut) < len(disks):  # of two shards the second
            return plain(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, step, crash)
        with pytest.raises(KeyboardInterrupt):
            build(folder, tmp_path, disks=disks)
    assert not [path for path in (tmp_path / "data" / "stores").glob("*/settings.json") if ".partial" not in str(path)]
    resumed = build(folder, tmp_path, disks=disks)
    assert len(resumed.shards.files) == max(len(disks), 1)
    assert np.array_equal(resumed.clips, expected.clips)
    if not disks:
        assert content(resumed.path) == content(expected.path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_over_several_disks_holds_the_same_rows(folder, tmp_path, workers):
    for k in range(3):
        (folder / "A" / f"bad{k}.wav").write_text("x")
    whole = build(folder, tmp_path / "whole")
    disks = [tmp_path / "disks" / name for name in "abcd"]
    spread = build(folder, tmp_path, disks=disks, workers=workers)
    held = [np.load(next(disk.iterdir())) for disk in disks]
    assert [len(piece) for piece in held] == [4, 4, 4, 0]  # room was made for 15, of which three were refused
    assert np.array_equal(np.concatenate(held), whole.clips)
    rows = np.random.default_rng(0).integers(0, 12, 50)
    assert np.array_equal(spread.read(rows), whole.clips[rows])
    assert np.array_equal(spread.label_ids, whole.label_ids)
    assert np.array_equal(spread.digests, whole.digests)
    assert sum(file.stat().st_size for file in spread.path.glob("clips*") if not file.is_symlink()) == 0
    travelled = pickle.loads(pickle.dumps(spread))
    assert np.array_equal(travelled.clips, whole.clips)
    # Where it lies is known from then on.
    assert build(folder, tmp_path).path == spread.path


def test_a_disk_that_is_gone_is_named(folder, tmp_path):
    it = build(folder, tmp_path, disks=[tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"clips-01.npy leads to .*/b/.* is that disk mounted"):
        Store.open(it.path)
    (tmp_path / "elsewhere").rename(tmp_path / "b")
    assert len(Store.open(it.path).clips) == 12


def test_processes_that_want_the_same_store_build_it_once(tmp_path):
    processes = [start(tmp_path / "data", 100) for _ in range(2)]
    lines = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], lines
    assert sum(" clips in " in line for line in lines) == 1
    assert len(list((tmp_path / "data").glob("stores/*/settings.json"))) == 1


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(OSError, match=r"needs .* GB"):
        prepare("drums", tmp_path, count=100, progress=False)


def test_a_write_that_fails_stops_the_build_and_blames_no_file(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="No space"):
            build(folder, tmp_path, workers=0)
    assert build(folder, tmp_path).rejected == 0


# --------------------------------------------------------------------------------------- built-in, and kits


def test_built_in_sounds_carry_their_drawn_parameters_as_labels(tmp_path):
    it = prepare("drums", tmp_path, SHORT, count=6, progress=False)
    assert it.labels == tuple(sorted(builtin.VOICES["drums"]))
    assert np.bincount(it.label_ids).tolist() == [2, 2, 2]
    for k, line in enumerate(it.manifest()):
        assert json.loads(line["parameters"]) == builtin.render("drums", k, 0).parameters
    again = prepare("drums", tmp_path, SHORT, count=6, seed=1, progress=False)
    assert not np.array_equal(it.clips, again.clips)


def test_groups_are_kit_folders_or_what_a_pattern_finds(folder, tmp_path):
    kits = build(folder, tmp_path, group_by="folder")
    assert sorted(set(kits.groups)) == ["A", "B"]
    labels = build(folder, tmp_path, group_by=r"/(\w+)/\d")
    assert sorted(set(labels.groups)) == ["kick", "snare"]
    assert len(set(build(folder, tmp_path).groups)) == 12
    assert kits.path == labels.path
    for wrong in ("files", "(", "(in)?", "no(thing)?$"):
        with pytest.raises(ValueError, match="group_by"):
            build(folder, tmp_path, group_by=wrong)
    with pytest.raises(ValueError, match="one kit"):
        build(folder / "A", tmp_path, group_by="folder")


def test_what_happens_is_said_in_a_few_lines_where_there_is_no_terminal(folder, tmp_path, capsys):
    (folder / "A" / "bad.wav").write_text("x")
    build(folder, tmp_path, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "preparing 13 sounds" in lines[0]
    assert "12 clips" in lines[1]
    assert "1 files refused (1 not readable as audio" in lines[2]
    build(folder, tmp_path, progress=True)
    assert capsys.readouterr().err == ""


def test_the_journal_is_read_to_its_last_whole_line(tmp_path):
    (tmp_path / "j").write_bytes(b'{"i": 2}\n{"i": 0}\n{"i": 1')
    assert Journal.read(tmp_path / "j", 3).tolist() == [9, -1, 0]
    assert (tmp_path / "j").stat().st_size == 18


def test_a_store_that_is_gone_holds_no_file(folder, tmp_path):
    path = build(folder, tmp_path).path
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        store = Store.open(path)
        store.hold()
        assert len(os.listdir("/proc/self/fd")) > before
        del store
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
