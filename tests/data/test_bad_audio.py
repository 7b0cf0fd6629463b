"""Folders full of broken files become stores: each bad file is named with a reason, the good ones are clips.

The counts that a release is held to are marked slow; a handful of each is in every run.
"""

import os
import re
import resource
import shutil
import struct
import threading
import time
from pathlib import Path

import mutations
import numpy as np
import psutil
import pytest
import soundfile
import torch

from diffwave_sde import audio
from diffwave_sde.collection import clips, doctor
from diffwave_sde.data.build import prepare
from diffwave_sde.metrics.sets import Reader

SHORT = 2_000
SECONDS = 2.0  # that one small file may take, on a busy machine


def wav(channels: int, rate: int, claimed: int, body: bytes = b"", bits: int = 16, form: int = 1) -> bytes:
    """A WAV file whose header says what it likes."""
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate, rate * frame % 2**32, frame, bits)
    size = struct.pack("<I", (claimed + 36) % 2**32)
    return b"RIFF" + size + b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", claimed) + body


def floats(*values: float, channels: int = 1) -> bytes:
    body = np.repeat(np.array(values, "<f4"), 500).tobytes()
    return wav(channels, 44_100, len(body), body, 32, 3)


SOUND = (np.random.default_rng(1).standard_normal(4_000) * 3000).astype("<i2").tobytes()
LIES = {
    "2 GB": (wav(1, 44_100, 2_000_000_000, SOUND), "truncated"),
    "2 GB of 1000 channels": (wav(1000, 44_100, 2_000_000_000, SOUND), "truncated"),
    "no channel": (wav(0, 44_100, len(SOUND), SOUND), "not readable as audio"),
    "40000 channels": (wav(20_000, 44_100, len(SOUND), SOUND), "not readable as audio"),
    "0 Hz": (wav(1, 0, len(SOUND), SOUND), "not readable as audio"),
    "7 Hz": (wav(1, 7, len(SOUND), SOUND), "sample rate 7 Hz"),
    "800 MHz": (wav(1, 800_000_000, len(SOUND), SOUND), "sample rate 800000000 Hz"),
    "4 GHz": (wav(1, 2**32 - 1, len(SOUND), SOUND), "not readable as audio"),
    "NaN": (floats(0.5, np.nan), "holds NaN"),
    "infinity": (floats(0.5, -np.inf), "holds NaN or infinite"),
    "3e38": (floats(0.5, 3e38), "holds a sample of 3e\\+38, where full scale is 1"),
    "3e38 of two": (floats(3e38, 3e38, channels=2), "holds a sample of 3e\\+38"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_header_that_lies_and_a_number_that_no_sound_has_are_named(case, tmp_path):
    data, why = LIES[case]
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    began = time.monotonic()
    with pytest.raises((OSError, ValueError), match=rf"x\.wav: {why}"):
        audio.decode(path)
    assert time.monotonic() - began < SECONDS


def test_many_channels_are_mixed_as_they_are_read_whatever_the_size_of_a_block(tmp_path, monkeypatch):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (3_000, 7)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", x, 44_100, "FLOAT")
    soundfile.write(tmp_path / "y.wav", np.stack([x[:, 0], -x[:, 0]], 1), 44_100, "FLOAT")
    for block in (70, 5_000, 1 << 18):
        monkeypatch.setattr(audio.files, "BLOCK", block)
        torch.testing.assert_close(audio.decode(tmp_path / "x.wav")[0], torch.from_numpy(x.mean(1)))
        assert torch.equal(audio.decode(tmp_path / "y.wav")[0], torch.from_numpy(x[:, 0]))


def test_ten_hours_are_read_to_the_minute_and_not_whole(tmp_path):
    path, size = tmp_path / "x.wav", 36_000 * 44_100 * 2
    path.write_bytes(wav(1, 44_100, size, SOUND))
    os.truncate(path, 44 + size)  # of which no disk holds more than the beginning
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(audio.decode(path, 60.0)[0]) == 60 * 44_100
    store = prepare(str(tmp_path), tmp_path / "data", SHORT, workers=0, progress=False)
    assert len(store) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200e3  # KiB
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio.files, "WHOLE", 1.0)  # an hour, made a second
        with pytest.raises(ValueError, match=r"x\.wav: 10\.0 hours long: no more than .* are read whole; cut it first"):
            audio.decode(path)


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(OSError, match=r"x\.wav: not a file"):
        audio.decode(tmp_path / "x.wav")


def broken(folder: Path, count: int, seed: int = 0) -> tuple[list[Path], float]:
    """Mutated files, of which none took longer than it may nor broke the law of `decode`; and the slowest's seconds."""
    (folder / "whole").mkdir()
    (folder / "sounds").mkdir()
    whole = mutations.whole_files(folder / "whole")
    assert {path.name.split("-")[0] for path in whole} == set(soundfile.available_formats())
    slowest, files = 0.0, []
    for path in mutations.mutated(whole, folder / "sounds", count, seed):
        files.append(path)
        began = time.monotonic()
        refusal = None
        try:
            x, rate = audio.decode(path, 60.0)
        except (OSError, ValueError) as error:
            refusal = str(error)
        if refusal is None:
            assert x.isfinite().all()
            assert len(x)
            assert 1_000 <= rate <= 768_000
        else:
            assert refusal.startswith(f"{path}: ")
            assert "\n" not in refusal
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < SECONDS
    return files, slowest


def held(root: Path, files: list[Path], workers: int = 0) -> tuple[int, int]:
    """A store of these files, by the laws of a store: (its clips, the files refused)."""
    store = prepare(str(files[0].parent), root, SHORT, workers=workers, progress=False)
    lines = list(store.manifest())
    assert sorted(line["file"] for line in lines) == sorted(path.name for path in files)
    assert all((line["row"] != "") != (line["reason"] != "") for line in lines)
    unforeseen = [line for line in lines if re.fullmatch(r"\w+(Error|Exception)", line["reason"].split(":")[0])]
    assert not unforeseen
    for row in range(len(store)):
        x = store.read([row]).astype(np.float64)
        # One number that is not finite makes garbage of all that it is filtered with: no peak where it should be.
        assert abs(np.abs(x).max() / 32768 - audio.PEAK) < 1e-3 or not x.any(), lines[row]
    return len(store), sum(line["reason"] != "" for line in lines)


def test_a_folder_of_mutated_files_of_every_container_becomes_a_store(tmp_path):
    files, _ = broken(tmp_path, 150)
    clips_, refused = held(tmp_path / "data", files)
    assert clips_ > 20
    assert refused > 20


def test_the_readers_of_the_verbs_name_what_they_leave_out(tmp_path):
    (tmp_path / "sounds").mkdir()
    audio.write(tmp_path / "sounds" / "fine.wav", torch.randn(3_000) * 0.1)
    for name, (data, _) in LIES.items():
        (tmp_path / "sounds" / f"{name}.wav").write_bytes(data)
    library = clips.read(clips.source_of([str(tmp_path / "sounds")], tmp_path, 1, 0), SHORT)
    assert library.files == ("fine.wav",)
    assert {file for file, _ in library.refused} == {f"{name}.wav" for name in LIES}
    for sounds in ("real", "generated"):
        said = {}
        found = getattr(Reader(SHORT, refused=said.__setitem__), sounds)(str(tmp_path / "sounds"))
        assert len(found.sounds) == 1
        assert said.keys() == {f"{name}.wav" for name in LIES}


def test_a_file_that_is_gone_when_the_doctor_listens_to_it_is_a_finding(tmp_path):
    for name in ("a.wav", "b.wav"):
        audio.write(tmp_path / name, torch.randn(3_000) * 0.1)
    library = clips.read(clips.source_of([str(tmp_path)], tmp_path, 1, 0), SHORT)
    (tmp_path / "a.wav").unlink()
    found = [(one.file, one.kind, one.told) for one in doctor.files(library)]
    assert [(file, kind) for file, kind, _ in found if kind == "unreadable"] == [("a.wav", "unreadable")]


class Restless(threading.Thread):
    """Rewrites, cuts, removes and brings back files until it is told to stop."""

    def __init__(self, files: list[Path]):
        super().__init__(daemon=True)
        self.files, self.over, self.changes = files, threading.Event(), 0
        self.contents = [path.read_bytes() for path in files]

    def run(self) -> None:
        chance = np.random.default_rng(0)
        while not self.over.is_set():
            i = int(chance.integers(len(self.files)))
            path, data = self.files[i], self.contents[i]
            kind = chance.integers(4)
            if kind == 0:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data[: int(chance.integers(len(data)))] if kind == 1 else data)
            self.changes += 1


@pytest.mark.parametrize("count", [30, pytest.param(1_000, marks=pytest.mark.slow)])
def test_files_that_change_or_vanish_while_they_are_read_end_as_clips_or_with_a_reason(count, tmp_path):
    (tmp_path / "sounds").mkdir()
    files = [tmp_path / "sounds" / f"{i}.wav" for i in range(count)]
    for i, path in enumerate(files):
        audio.write(path, torch.randn(9_000, generator=torch.Generator().manual_seed(i)) * 0.1)
    whole = files[:5]  # these are left alone
    restless = Restless(files[5:])
    restless.start()
    try:
        store = prepare(str(tmp_path / "sounds"), tmp_path / "data", SHORT, workers=0, progress=False)
    finally:
        restless.over.set()
        restless.join()
    assert restless.changes > count / 2
    lines = {line["file"]: line for line in store.manifest()}
    assert all(lines[path.name]["row"] != "" for path in whole)
    assert all((line["row"] != "") != (line["reason"] != "") for line in lines.values())
    assert np.abs(store.read(np.arange(len(store)))).max() > 30_000


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_thousand_mutated_files(tmp_path, workers):
    files, slowest = broken(tmp_path, 2_000, seed=1 + workers)
    clips_, refused = held(tmp_path / "data", files, workers)
    print(f"{len(files)} files, {clips_} clips, {refused} refused, the slowest took {slowest:.2f} s")
    assert clips_ + refused == 2_000


@pytest.mark.slow
def test_reading_broken_files_again_and_again_takes_no_more_memory_nor_handles(tmp_path):
    process, rounds = psutil.Process(), []
    for seed in range(6):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        broken(tmp_path, 1_000, seed)
        rounds.append((process.memory_info().rss, process.num_fds()))
    print([(rss >> 20, handles) for rss, handles in rounds])
    assert rounds[-1][0] - rounds[1][0] < 30 << 20
    assert rounds[-1][1] == rounds[1][1]


@pytest.mark.slow
def test_ten_thousand_small_files(tmp_path):
    (tmp_path / "sounds").mkdir()
    for i in range(10_000):
        body = SOUND[i % 1_000 :][:400]
        data = wav(1, 44_100, len(body) if i % 10 else 4_000, body)
        (tmp_path / "sounds" / f"{i}.wav").write_bytes(data)
    process = psutil.Process()
    before = process.memory_info().rss
    store = prepare(str(tmp_path / "sounds"), tmp_path / "data", SHORT, workers=0, progress=False)
    print(f"memory +{(process.memory_info().rss - before) >> 20} MiB")
    assert (len(store), len(list(store.refused()))) == (9_000, 1_000)
    assert process.memory_info().rss - before < 300 << 20
