"""Building a store: in parallel, in one piece or not at all, and never the same work twice.

It is built as `NAME-DIGEST.partial` by several processes and moved into place in one step, so that what
stands under its own name is whole. A journal there says which rows are finished: after Ctrl-C, or worse,
the next build goes on from it. The bytes do not depend on how often it stopped nor on how many worked.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.data import sources
from diffwave_sde.data.convert import CHUNK, convert_all
from diffwave_sde.data.copies import BANDS, find_copies
from diffwave_sde.data.filter import Filter
from diffwave_sde.data.items import SECONDS, Source
from diffwave_sde.data.journal import Journal
from diffwave_sde.data.shards import Shards, allocate, close, remove, write_header
from diffwave_sde.data.store import Store
from diffwave_sde.names import digest, escape
from diffwave_sde.paths import expand
from diffwave_sde.progress import progress_bar

VERSION = 3  # of the layout and of the windowing: a change rebuilds every store
COLUMNS = ("row", "file", "label", "group", "seconds", "rate", "licence", "digest", "copy_of", "parameters", "reason")


def prepare(
    dataset: str,
    root: str | os.PathLike = "data",
    length: int = audio.LENGTH,
    count: int = 6000,
    seed: int = 0,
    group_by: str | None = None,
    classes: Iterable[str] = (),
    licence: str | None = None,
    disks: Iterable[str] = (),
    exclude: Iterable[str] = (),
    workers: int | None = None,
    progress: bool = True,
    rate: int = audio.RATE,
    part: str | None = None,
) -> Store:
    """Opens the store of a dataset, and builds it first where there is none or its inputs have changed.

    Args:
        dataset: drums or synth (built in), hydrogen or sonic-pi (Debian's packages), or a folder of sounds; or
            several of these, joined by "+"
        root: folder for stores and downloads
        length: samples per clip
        count: clips of a built-in dataset
        seed: of a built-in dataset
        group_by: kits for the split, see `Store.open`
        classes: names of the classes to take; none for all
        licence: regular expression that the licence of a recording begins with; None for any
        disks: folders on other disks, over which a new store's clips are spread in equal shards; none keeps them
            under root
        exclude: files to leave out, relative to the data set
        workers: processes; None takes one per core where there is enough to do, 0 and 1 none beside this
        progress: False says nothing
        rate: Hz of the windows of pairs; one-shots have 44,100
        part: which stem of each song of a folder is the part, the others together its context; None for mix and part

    Raises:
        ValueError: if the dataset is unknown, holds no usable sound or none that is wanted, or an argument is
            out of range
        OSError: if a package cannot be fetched, the root cannot be written or has no room
    """
    if length <= audio.PRE_ROLL:
        raise ValueError(f"length must exceed the pre-roll of {audio.PRE_ROLL} samples, not {length}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, not {workers}")
    root = expand(root)
    console = Console(stderr=True, quiet=not progress, highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    only = Filter(tuple(classes), licence, tuple(exclude))
    source = sources.find(dataset, root, count, seed, say, only, length, rate, part)
    settings = {
        "version": VERSION, "name": source.name, "length": length, "rate": source.rate, "pre_roll": audio.PRE_ROLL,
        "peak": audio.PEAK, "fade": audio.FADE, "seconds": SECONDS, "inputs": source.inputs,
    }  # fmt: skip
    if source.paired:
        settings["channels"] = 2  # a row is the context and then its part
    stamp = digest(json.dumps(settings, sort_keys=True).encode())
    home = root / "stores" / f"{source.name}-{stamp[:12]}"
    if not (home / "settings.json").is_file():
        home.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home.with_name(f".{home.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{source.name}: another process is building this store; waiting for it")
            lock.acquire()
        try:
            if not (home / "settings.json").is_file():
                _build(source, settings, home, tuple(disks), workers, console, say)
        finally:
            lock.release()
    if source.paired and group_by is None and len({item.group for item in source.items}) > 1:
        group_by = "folder"  # windows of one song stay together
    store = Store.open(home, group_by)
    sizes = np.unique(store.copies, return_counts=True)[1]
    sizes = sizes[sizes > 1]
    if len(sizes):
        say(
            f"{source.name}: {sizes.sum():,} clips are near copies of each other, in {len(sizes):,} "
            f"group{'s' if len(sizes) > 1 else ''} of up to {sizes.max():,}: no group is split between training, "
            "validation and test"
        )
    return store


def _build(
    source: Source, settings: dict, home: Path, disks: tuple, workers: int | None, console: Console, say
) -> None:
    began = time.monotonic()
    work = home.with_name(f"{home.name}.partial")
    work.mkdir(exist_ok=True)
    items, length = source.items, settings["length"] * settings.get("channels", 1)
    journal = work / "journal.jsonl"
    entries = Journal.read(journal, len(items))
    shards = Shards.of(work, len(items), length)
    if not (entries >= 0).any():  # what a build that was stopped has made is taken as it is
        shards = allocate(work, home.name, disks, len(items), length)
    todo = np.flatnonzero(entries < 0)
    done = len(items) - len(todo)
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, 32, len(todo) // (8 * CHUNK))  # a process takes seconds to start
    if len(items):
        say(f"{source.name}: preparing {len(items):,} sounds" + (f", {done:,} of them done before" if done else ""))
    tasks = ([(int(i), items[int(i)]) for i in todo[first : first + CHUNK]] for first in range(0, len(todo), CHUNK))
    with _bar(console, source.name, len(items), done) as advance, Journal(journal, shards) as log:
        for results in convert_all(tasks, workers, shards):
            log.append(results)
            advance(len(results), sum("reason" in result for result in results))
    _finish(source, settings, work, home, shards)
    store = Store.open(home)
    kinds = Counter(reason.split(":")[0] for _, reason in store.refused())
    why = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    say(f"{source.name}: {len(store):,} clips in {time.monotonic() - began:.1f} s -> {escape(str(home))}")
    if refused := sum(kinds.values()):
        say(f"{source.name}: {refused:,} files refused ({why}); see {escape(str(home / 'manifest.csv'))}")


def _finish(source: Source, settings: dict, work: Path, home: Path, shards: Shards) -> None:
    """Closes the gaps that refused files left, writes index, manifest and settings, and moves it all into place.

    The last rows fill the gaps. Sources lie beyond the final end and targets before it, so that this may stop
    anywhere and be done again.
    """
    items = source.items
    at = Journal.read(work / "journal.jsonl", len(items))
    good = np.zeros(len(items), bool)
    reasons: list[tuple[str, str]] = list(source.refused)
    with open(work / "journal.jsonl", "rb") as file:
        for line in file:
            result = json.loads(line)
            good[result["i"]] = "reason" not in result
            if "reason" in result:
                reasons.append((items[result["i"]].file, result["reason"]))
    n = int(good.sum())
    if not n:
        found = (
            f"{len(reasons):,} files, for example {escape(reasons[0][0])}: {reasons[0][1]}" if reasons else "no files"
        )
        remove(work)
        raise ValueError(f"{source.origin}: no usable sound in it ({found})")
    holes, last = np.flatnonzero(~good[:n]), np.flatnonzero(good[n:]) + n
    rows = np.arange(len(items))
    rows[last] = holes
    whole = [shards.bytes(own) for own in shards.rows(len(items))]
    samples = shards.open()
    if [os.fstat(file).st_size for file in samples] == whole:  # else it stopped after this
        for source_row, hole in zip(last.tolist(), holes.tolist(), strict=True):
            (k, here), (m, there) = shards.at(source_row), shards.at(hole)
            os.pwrite(samples[m], os.pread(samples[k], shards.length * 2, here), there)
        for file in samples:
            os.fsync(file)
    for file, path, own in zip(samples, shards.files, shards.rows(n), strict=True):
        os.ftruncate(file, shards.bytes(own))
        write_header(path, own, shards.length)
        os.fsync(file)
    close(samples)

    item_of = np.empty(n, np.int64)
    item_of[rows[good]] = np.flatnonzero(good)
    labels: dict[str, int] = {}
    groups: dict[str, int] = {}
    label_ids, group_ids, digests = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, "S32")
    copies = _copies(work, at[item_of], shards)
    with (
        open(work / "journal.jsonl", "rb") as journal,
        open(work / "manifest.csv", "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for row, i in enumerate(item_of.tolist()):
            journal.seek(at[i])
            result, item = json.loads(journal.readline()), items[i]
            label_ids[row] = labels.setdefault(result["label"], len(labels))
            group_ids[row] = groups.setdefault(item.group, len(groups))
            digests[row] = result["digest"]
            table.writerow(
                {
                    "row": row, "file": escape(item.file), "label": result["label"], "group": item.group,
                    "seconds": f"{result['seconds']:.4f}", "rate": result["rate"], "licence": escape(item.licence),
                    "digest": result["digest"], "copy_of": copies[row] if copies[row] != row else "",
                    "parameters": json.dumps(result["parameters"]) if result["parameters"] else "",
                }
            )  # fmt: skip
        for name, reason in sorted(reasons):
            table.writerow({"file": escape(name), "reason": escape(reason)})
    # class ids in the order of the names, not of the files
    names = sorted(labels)
    order = np.empty(len(names), np.int64)
    order[[labels[name] for name in names]] = np.arange(len(names))
    np.savez(work / "index.npz", label_ids=order[label_ids], group_ids=group_ids, digests=digests, copies=copies)
    settings = settings | {
        "labels": names, "groups": list(groups), "clips": n, "rejected": len(reasons), "origin": source.origin,
        "rows_per_shard": shards.each,
    }  # fmt: skip
    with atomic_write(work / "settings.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    for name in ("index.npz", "manifest.csv", "settings.json"):
        file = os.open(work / name, os.O_RDWR)
        os.fsync(file)
        os.close(file)
    shutil.rmtree(home, ignore_errors=True)  # without settings.json: never a store
    work.rename(home)
    (home / "journal.jsonl").unlink()


def _copies(work: Path, places: np.ndarray, shards: Shards) -> np.ndarray:
    """The first row that each row is a near copy of, or itself, (n,) int64.

    Args:
        places: (n,) where in the journal each row's line begins
    """
    envelopes: list[list[float]] = []
    rows: list[int] = []
    with open(work / "journal.jsonl", "rb") as journal:
        for row, place in enumerate(places.tolist()):
            journal.seek(place)
            if levels := json.loads(journal.readline())["envelope"]:
                envelopes.append(levels)
                rows.append(row)
    files = shards.open(os.O_RDONLY)

    def read(k: int) -> np.ndarray:
        number, start = shards.at(rows[k])
        return np.frombuffer(os.pread(files[number], shards.length * 2, start), "<i2")

    found = find_copies(np.array(envelopes, np.float32).reshape(len(rows), BANDS), read, audio.RATE)
    close(files)
    copies = np.arange(len(places))
    compared = np.array(rows, np.int64)
    copies[compared] = compared[found.group]
    return copies


@contextmanager
def _bar(console: Console, name: str, total: int, done: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar: `advance(files, how many of them were refused)`."""
    with progress_bar("files", console, transient=True) as bar:
        task = bar.add_task(name, total=total, completed=done)
        refused = 0

        def advance(number: int, more: int) -> None:
            nonlocal refused
            refused += more
            bar.update(task, advance=number, note=f"{refused} refused" if refused else "")

        yield advance
