"""Building a store: in parallel, in one piece or not at all, and never the same work twice.

It is built as `NAME-DIGEST.partial` by several processes and moved into place in one step, so that what
stands under its own name is whole. A journal there says which rows are finished: after Ctrl-C, or worse,
the next build goes on from it. The bytes do not depend on how often it stopped nor on how many worked.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.data import sources
from diffwave_sde.data.store import Pieces, Store

VERSION = 2  # of the layout and of the windowing: a change rebuilds every store
CHUNK = 32  # clips between two entries of the journal, and in one task of a worker
COLUMNS = ("row", "file", "label", "group", "seconds", "rate", "licence", "digest", "parameters", "reason")


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
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """Opens the store of a dataset, and builds it first where there is none or its inputs have changed.

    Args:
        dataset: drums or synth (built in), hydrogen or sonic-pi (Debian's packages), or a folder of sounds; or
            several of these, joined by "+"
        root: folder for stores and downloads
        length: samples per clip at 44.1 kHz
        count: clips of a built-in dataset
        seed: of a built-in dataset
        group_by: kits for the split, see `Store.open`
        classes: names of the classes to take; none for all
        licence: regular expression that the licence of a recording begins with; None for any
        disks: folders on other disks, over which a new store's clips are spread in equal pieces; none keeps them
            under root
        workers: processes; None takes one per core where there is enough to do, 0 and 1 none beside this
        progress: False says nothing

    Raises:
        ValueError: if the dataset is unknown, holds no usable sound or none that is wanted, or an argument is
            out of range
        OSError: if a package cannot be fetched, the root cannot be written or has no room
    """
    if length <= audio.PRE_ROLL:
        raise ValueError(f"length must exceed the pre-roll of {audio.PRE_ROLL} samples, not {length}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, not {workers}")
    root = Path(root)
    console = Console(stderr=True, quiet=not progress, highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    only = sources.Only(tuple(sorted(classes)), licence)
    source = sources.find(dataset, root, count, seed, say, only)
    settings = {
        "version": VERSION, "name": source.name, "length": length, "rate": audio.RATE, "pre_roll": audio.PRE_ROLL,
        "peak": audio.PEAK, "fade": audio.FADE, "seconds": sources.SECONDS, "inputs": source.inputs,
    }  # fmt: skip
    digest = sources.digest(json.dumps(settings, sort_keys=True).encode())
    home = root / "stores" / f"{source.name}-{digest[:12]}"
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
    return Store.open(home, group_by)


def _build(
    source: sources.Source, settings: dict, home: Path, disks: tuple, workers: int | None, console: Console, say
) -> None:
    began = time.monotonic()
    work = home.with_name(f"{home.name}.partial")
    work.mkdir(exist_ok=True)
    items, length = source.items, settings["length"]
    journal = work / "journal.jsonl"
    entries = _Journal.read(journal, len(items))
    pieces = Pieces.of(work, len(items), length)
    if not (entries >= 0).any():  # what a build that was stopped has made is taken as it is
        pieces = _allocate(work, home.name, disks, len(items), length)
    todo = np.flatnonzero(entries < 0)
    done = len(items) - len(todo)
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, 32, len(todo) // (8 * CHUNK))  # a process takes seconds to start
    if len(items):
        say(f"{source.name}: preparing {len(items):,} sounds" + (f", {done:,} of them done before" if done else ""))
    tasks = ([(int(i), items[int(i)]) for i in todo[first : first + CHUNK]] for first in range(0, len(todo), CHUNK))
    with _bar(console, source.name, len(items), done) as advance, _Journal(journal, pieces) as log:
        for results in _convert_all(tasks, workers, pieces):
            log.append(results)
            advance(len(results), sum("reason" in result for result in results))
    _finish(source, settings, work, home, pieces)
    store = Store.open(home)
    kinds = Counter(reason.split(":")[0] for _, reason in store.refused())
    why = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    say(f"{source.name}: {len(store):,} clips in {time.monotonic() - began:.1f} s -> {home}")
    if refused := sum(kinds.values()):
        say(f"{source.name}: {refused:,} files refused ({why}); see {home / 'manifest.csv'}")


def _allocate(work: Path, name: str, disks: tuple, rows: int, length: int) -> Pieces:
    """Makes room for all rows (no bytes are written): in the folder, or in a piece for each disk, linked from there."""
    for file in work.glob("clips*"):
        file.unlink()
    places = [Path(disk).expanduser().resolve() / f"{name}-{k:02d}.npy" for k, disk in enumerate(disks)]
    links = [work / f"clips-{k:02d}.npy" for k in range(len(places))] or [work / "clips.npy"]
    pieces = Pieces(tuple(links), -(-rows // len(links)), length)
    for link, place, own in zip(links, places or links, pieces.rows(rows), strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        need, free = pieces.bytes(own), shutil.disk_usage(place.parent).free
        if need > free:
            raise OSError(f"{place.parent}: the store needs {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        temporary = place.with_suffix(".tmp")
        _header(temporary, own, length)
        os.truncate(temporary, need)
        temporary.rename(place)
        if place != link:
            link.symlink_to(place)
    return pieces


def _remove(work: Path) -> None:
    """Removes a build, with what it holds on other disks."""
    for file in work.glob("clips*.npy"):
        file.resolve().unlink(missing_ok=True)
    shutil.rmtree(work)


def _header(path: Path, rows: int, length: int) -> None:
    with open(path, "r+b" if path.exists() else "wb") as file:
        header = {"descr": "<i2", "fortran_order": False, "shape": (rows, length)}
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != Pieces.START:
            raise RuntimeError("numpy's header changed its length")


class _Journal:
    """What is finished, a JSON line per item, appended once its samples are on the disk."""

    def __init__(self, path: Path, pieces: Pieces) -> None:
        self.path, self.pieces = path, pieces

    def __enter__(self) -> _Journal:
        self.file, self.samples = open(self.path, "ab"), self.pieces.open()
        self.waiting: list[dict] = []
        self.written = time.monotonic()
        return self

    def append(self, results: list[dict]) -> None:
        self.waiting += results
        if time.monotonic() - self.written > 1.0:  # a sync per chunk would be all there is to do
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            for samples in self.samples:
                os.fsync(samples)
            self.file.write(b"".join(json.dumps(result).encode() + b"\n" for result in self.waiting))
            self.file.flush()
            os.fsync(self.file.fileno())
        self.waiting, self.written = [], time.monotonic()

    def __exit__(self, *error) -> None:
        try:
            self.flush()
        finally:
            self.file.close()
            _close(self.samples)

    @staticmethod
    def read(path: Path, items: int) -> np.ndarray:
        """(items,) where each item's line begins, or -1. A last line that was cut short is cut off."""
        at = np.full(items, -1, np.int64)
        if not path.exists():
            return at
        position = 0
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                at[json.loads(line)["i"]] = position
                position += len(line)
        os.truncate(path, position)
        return at


def _finish(source: sources.Source, settings: dict, work: Path, home: Path, pieces: Pieces) -> None:
    """Closes the gaps that refused files left, writes index, manifest and settings, and moves it all into place.

    The last rows fill the gaps. Sources lie beyond the final end and targets before it, so that this may stop
    anywhere and be done again.
    """
    items = source.items
    at = _Journal.read(work / "journal.jsonl", len(items))
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
        found = f"{len(reasons):,} files, for example {reasons[0][0]}: {reasons[0][1]}" if reasons else "no files"
        _remove(work)
        raise ValueError(f"{source.origin}: no usable sound in it ({found})")
    holes, last = np.flatnonzero(~good[:n]), np.flatnonzero(good[n:]) + n
    rows = np.arange(len(items))
    rows[last] = holes
    whole = [pieces.bytes(own) for own in pieces.rows(len(items))]
    samples = pieces.open()
    if [os.fstat(file).st_size for file in samples] == whole:  # else it stopped after this
        for source_row, hole in zip(last.tolist(), holes.tolist(), strict=True):
            (k, here), (m, there) = pieces.at(source_row), pieces.at(hole)
            os.pwrite(samples[m], os.pread(samples[k], pieces.length * 2, here), there)
        for file in samples:
            os.fsync(file)
    for file, path, own in zip(samples, pieces.files, pieces.rows(n), strict=True):
        os.ftruncate(file, pieces.bytes(own))
        _header(path, own, pieces.length)
        os.fsync(file)
    _close(samples)

    item_of = np.empty(n, np.int64)
    item_of[rows[good]] = np.flatnonzero(good)
    labels: dict[str, int] = {}
    groups: dict[str, int] = {}
    label_ids, group_ids, digests = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, "S32")
    with (
        open(work / "journal.jsonl", "rb") as journal,
        open(work / "manifest.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
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
                    "row": row, "file": item.file, "label": result["label"], "group": item.group,
                    "seconds": f"{result['seconds']:.4f}", "rate": result["rate"], "licence": item.licence,
                    "digest": result["digest"],
                    "parameters": json.dumps(result["parameters"]) if result["parameters"] else "",
                }
            )  # fmt: skip
        for name, reason in sorted(reasons):
            table.writerow({"file": name, "reason": reason})
    # class ids in the order of the names, not of the files
    names = sorted(labels)
    order = np.empty(len(names), np.int64)
    order[[labels[name] for name in names]] = np.arange(len(names))
    np.savez(work / "index.npz", label_ids=order[label_ids], group_ids=group_ids, digests=digests)
    settings = settings | {
        "labels": names, "groups": list(groups), "clips": n, "rejected": len(reasons), "origin": source.origin,
        "rows_of_a_piece": pieces.each,
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


# ----------------------------------------------------------------------------------------------- workers


def _convert_all(tasks: Iterable[list], workers: int, pieces: Pieces) -> Iterator[list[dict]]:
    """Converts chunk by chunk, here or in processes, and yields what became of the items of each."""
    if workers < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums over several threads round otherwise than over one
        try:
            files = pieces.open()
            for task in tasks:
                yield _convert(task, (pieces, files))
            _close(files)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (pieces,))
    pending: set = set()
    try:
        for task in tasks:
            pending.add(pool.submit(_convert, task))
            if len(pending) > 3 * workers:  # no more in flight than keeps everyone busy
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    except BrokenProcessPool as error:
        raise OSError("a worker process died (out of memory?); prepare again to go on, with fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_target: tuple[Pieces, list[int]]


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _start(pieces: Pieces) -> None:
    global _target
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it stops the workers
    _target = pieces, pieces.open()

    def follow() -> None:
        # a parent that was killed leaves its workers waiting for ever
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _convert(task: list, target: tuple[Pieces, list[int]] | None = None) -> list[dict]:
    """Loads each (i, item), writes its window to row i, and reports on it."""
    pieces, files = target or _target
    results = []
    for i, item in task:
        try:
            clip = item.load(pieces.length)
        except Exception as error:  # whatever one file brings, the build goes on, and the manifest says what it was
            results.append({"i": i, "reason": _reason(item, error)})
            continue
        number, start = pieces.at(i)
        os.pwrite(files[number], clip.window.tobytes(), start)
        results.append({"i": i} | clip._asdict() | {"window": None})
    return results


def _reason(item, error: Exception) -> str:
    text = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
    return text.partition(f"{item.file}: ")[2] or text


# ---------------------------------------------------------------------------------------------- progress


class _Speed(ProgressColumn):
    def render(self, task):
        return f"{task.speed:,.0f}/s" if task.speed else "-/s"


@contextmanager
def _bar(console: Console, name: str, total: int, done: int):
    """A progress bar on a terminal; elsewhere nothing."""
    if console.quiet or not console.is_terminal:
        yield lambda number, refused: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn(),
        TextColumn("{task.fields[refused]} refused"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total, completed=done, refused=0)
        refused = 0

        def advance(number: int, more: int) -> None:
            nonlocal refused
            refused += more
            bar.update(task, advance=number, refused=refused)

        yield advance
