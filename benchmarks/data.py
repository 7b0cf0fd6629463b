"""Measures the data side: reading clips from a store, decoding them file by file, and resident memory.

python benchmarks/data.py [--dataset FOLDER] [--clips N] [--store-clips N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table


def memory() -> dict[str, float]:
    """Resident memory of this process, GB: its own pages, those of mapped files, and shared ones."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {key: int(lines[key].split()[0]) / 1e6 for key in ("VmHWM", "RssAnon", "RssFile", "RssShmem")}


def sparse_store(folder: Path, clips: int, length: int) -> Path:
    """A store of silence that takes no room: its array is a hole."""
    from diffwave_sde.data.shards import Shards, write_header

    home = folder / "sparse"
    home.mkdir()
    shards = Shards((home / "clips.npy",), clips, length)
    write_header(shards.files[0], clips, length)
    os.truncate(shards.files[0], shards.bytes(clips))
    digests = np.char.mod("%032x", np.arange(clips)).astype("S32")
    rows = np.arange(clips)
    np.savez(home / "index.npz", label_ids=rows % 3, group_ids=np.zeros_like(rows), digests=digests, copies=rows)
    settings = {
        "name": "sparse", "labels": ["a", "b", "c"], "groups": [""], "rejected": 0, "length": length, "rate": 44_100,
    }  # fmt: skip
    (home / "settings.json").write_text(json.dumps(settings))
    return home


def loader(path: Path, batch: int, workers: int):
    from diffwave_sde.data.module import AudioDataModule
    from diffwave_sde.data.store import Store

    module = AudioDataModule(batch_size=batch, workers=workers)
    module._store = Store.open(path)
    return module.train_dataloader()


def epoch(path: Path, batch: int, workers: int) -> dict[str, float]:
    """One epoch of shuffled batches: clips per second and resident memory."""
    import torch  # noqa: F401  (counted before, not as the epoch's own)
    from lightning.pytorch import LightningDataModule  # noqa: F401

    before = memory()
    batches = loader(path, batch, workers)
    began, clips = time.perf_counter(), 0
    for each in batches:
        clips += len(each.index)
    seconds = time.perf_counter() - began
    return {"clips": clips, "rate": clips / seconds, "imports": before["RssAnon"] + before["RssFile"]} | memory()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Clips per second from the store against decoding file by file, and resident memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--dataset", help="folder of sounds to decode; default: built-in drums, written as FLAC")
    parser.add_argument("--clips", type=int, default=600, help="files to decode")
    parser.add_argument("--batch", type=int, default=16, help="clips per batch")
    parser.add_argument("--workers", type=int, default=0, help="processes that read ahead, in both measurements")
    parser.add_argument("--passes", type=int, default=20, help="epochs of the store to time")
    parser.add_argument("--store-clips", type=int, default=300_000, help="clips of the sparse store; 0 leaves it out")
    parser.add_argument("--length", type=int, default=21_000, help="samples per clip at 44.1 kHz")
    parser.add_argument("--epoch-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.epoch_of:
        print(json.dumps(epoch(Path(arguments.epoch_of), arguments.batch, arguments.workers)))
        return

    import soundfile
    import torch

    from diffwave_sde import audio
    from diffwave_sde.data import builtin, items, sources
    from diffwave_sde.data.build import prepare

    torch.set_num_threads(1)
    console, table = Console(), Table(title="data")
    for column in ("measurement", "value", "aim"):
        table.add_column(column, justify="left" if column == "measurement" else "right")
    folder = Path(tempfile.mkdtemp(prefix="bench-data-"))
    try:
        if arguments.dataset:
            home = Path(arguments.dataset)
        else:
            home = folder / "drums"
            home.mkdir()
            for k in range(arguments.clips):
                sound = builtin.render("drums", k)
                soundfile.write(home / f"{k}.flac", sound.samples, 44_100)
        files = [home / name for name in sources.scan(home)[0][: arguments.clips]]
        store = prepare(str(home), folder / "data", arguments.length)

        began, good = time.perf_counter(), 0
        for path in files:  # what a dataset without a store does for each clip, each time
            try:
                x, _ = audio.read(path, seconds=items.SECONDS)
                audio.compress(audio.window(x, arguments.length))
                good += 1
            except (OSError, ValueError):
                continue
        decoding = good / (time.perf_counter() - began)

        batches = loader(store.path, arguments.batch, arguments.workers)
        for _ in batches:
            pass  # warm: workers, page cache (the files were warm too: they had just been read)
        began, read = time.perf_counter(), 0
        for _ in range(arguments.passes):
            read += sum(len(batch.index) for batch in batches)
        reading = read / (time.perf_counter() - began)
        table.add_row("decoding file by file, clips/s", f"{decoding:,.0f}", "")
        table.add_row("reading companded batches from the store, clips/s", f"{reading:,.0f}", "")
        table.add_row("ratio", f"{reading / decoding:.1f}", "20")
        table.add_row(f"one batch of {arguments.batch}, ms", f"{1e3 * arguments.batch / reading:.2f}", "")

        if arguments.store_clips:
            path = sparse_store(folder, arguments.store_clips, arguments.length)
            # in a process of its own, so that nothing done above counts
            command = [sys.executable, __file__, "--epoch-of", str(path), "--batch", str(arguments.batch)]
            done = subprocess.run(
                [*command, "--workers", str(arguments.workers)], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            size = arguments.store_clips * arguments.length * 2 / 1e9
            table.add_section()
            table.add_row(f"store of {arguments.store_clips:,} clips, GB (a sparse file)", f"{size:.1f}", "")
            table.add_row(f"a shuffled epoch, {found['clips']:,} clips, clips/s", f"{found['rate']:,.0f}", "")
            table.add_row("resident after it: own pages (RssAnon), GB", f"{found['RssAnon']:.2f}", "")
            table.add_row("resident after it: mapped files (RssFile), GB", f"{found['RssFile']:.2f}", "")
            table.add_row("peak of both (VmHWM), GB", f"{found['VmHWM']:.2f}", "1.5")
            table.add_row("of which libraries, before the store is opened, GB", f"{found['imports']:.2f}", "")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(table)


if __name__ == "__main__":
    main()
