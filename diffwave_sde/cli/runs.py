"""Where a run lives: `runs/NAME/`, with its configuration, checkpoints, sounds and logs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from diffwave_sde import checkpoint
from diffwave_sde.names import cut, folder_name, printable

RUNS = Path("runs")
DEFAULT = "drums"  # the model to take where there is no run
CKPT = f"checkpoint, a run's folder, or an exported model (default: the newest run in runs/, else the model {DEFAULT})"
_CLAIMED = "DIFFWAVE_RUN"  # set for the processes that this one starts


def name_of(dataset: str) -> str:
    """The default name of a run: that of its data, fit for a folder."""
    # With the sounds that can be built come their libraries, which take a second to import.
    from diffwave_sde.data.sources import parts

    names = "-".join(Path(part).name for part in parts(dataset))
    return folder_name(names) or "run"


def run_name(name: str) -> str:
    """The folder of a run that a person names: as it is typed, but for bytes and characters that do not print."""
    return folder_name(name) if "\\" in printable(name) else cut(name)


def claim(name: str) -> Path:
    """A new folder for a run: NAME, or NAME-2 and so on where that holds one already; nothing is overwritten.

    Raises:
        OSError: if the folder cannot be made.
    """
    if _CLAIMED in os.environ:
        return Path(os.environ[_CLAIMED])
    # Processes that somebody else started share no parent here, so they must come to one name on their own.
    for key in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        if key in os.environ:
            name = f"{name}-{os.environ[key][:12]}"
            folder = RUNS / name
            folder.mkdir(parents=True, exist_ok=True)
            return folder
    for folder in numbered(RUNS, name):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(f"cannot write to {RUNS}: {error.strerror}; make it writable or change folders") from None
        os.environ[_CLAIMED] = str(folder)
        return folder
    raise OSError(f"{RUNS} holds ten thousand runs called {name}: choose another --name")


def requeued(name: str) -> Path | None:
    """The last checkpoint of a job that SLURM starts once more; None where it is its first start, or has saved none."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    last = RUNS / f"{name}-{job[:12]}" / "checkpoints" / "last.ckpt"
    return last if last.is_file() else None


def numbered(home: Path, name: str) -> Iterator[Path]:
    """NAME, NAME-2, NAME-3 and so on in a folder, of which the first that is free is to be taken."""
    yield home / name
    for number in range(2, 10_000):
        yield home / f"{name}-{number}"


def release() -> None:
    """Forget the claim of this process."""
    folder = os.environ.pop(_CLAIMED, None)
    # A run that failed before its first file leaves nothing behind.
    if folder and Path(folder).is_dir() and not any(Path(folder).iterdir()):
        Path(folder).rmdir()


def resolve(ckpt: str, name: str, kind: str = "diffusion") -> Path:
    """The checkpoint that `--ckpt_path` means: a file, a run's folder, `last`, or `best` by validation loss.

    Args:
        ckpt: the option.
        name: of the run, or what a launcher put its own number behind.
        kind: what is trained. It chooses among the runs that a launcher numbered; one that is called by its own name
            may be of another kind.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is an exported model.
    """
    if ckpt not in ("last", "best"):
        found = checkpoint.find(ckpt)
        if checkpoint.is_export(found):
            raise ValueError(
                f"--ckpt_path {ckpt}: {found} holds weights to listen to, without the optimizer's state: "
                "give a run's checkpoint, such as runs/drums"
            )
        return found
    # NAME, NAME-2, ...: the newest of them; else one that a launcher gave its own number.
    literal = glob.escape(name)
    numbered = [c for c in (checkpoint.newest(RUNS, literal), checkpoint.newest(RUNS, f"{literal}-[0-9]*")) if c]
    last = max(numbered, key=lambda c: c.stat().st_mtime, default=None) or checkpoint.newest(RUNS, f"{literal}-*", kind)
    if last is None:
        raise FileNotFoundError(
            f"no run called {name} in {RUNS}/ to go on with: leave --ckpt_path out to start one, or give --name"
        )
    if ckpt == "last":
        return last
    best = checkpoint.best(last.parent)
    if best is None:
        raise FileNotFoundError(f"no best checkpoint in {last.parent}: it has not been validated yet")
    return best


def folder_of(ckpt: Path) -> Path | None:
    """The run's folder that a checkpoint lies in, if it lies in one."""
    if checkpoint.is_export(ckpt):
        return None
    # RUN/checkpoints/NAME.ckpt; a name may have a folder in it.
    return next((folder for folder in ckpt.parents[1:3] if (folder / "config.yaml").is_file()), None)


def folder(run: str | None) -> Path:
    """The folder of the run that a person means: its path, its name, or None for the newest.

    Raises:
        FileNotFoundError: if there is none.
    """
    if run is None:
        newest = checkpoint.newest(RUNS)
        if newest is None:
            raise FileNotFoundError(f"no run in {RUNS}/: name a run's folder, or train one with `make train`")
        print(f"no run named: {newest.parents[1]}, the newest")
        return newest.parents[1]
    for path in (Path(run), RUNS / run):
        if path.is_dir():
            return path
    raise FileNotFoundError(f"no run at {run}: give its folder, such as {RUNS}/drums")


def output_dir(ckpt: Path, kind: str) -> Path:
    """The folder for what is made with a checkpoint: in its run; else here, and apart for each exported model."""
    if checkpoint.is_export(ckpt):
        return Path(kind) / ckpt.resolve().parent.name
    return (folder_of(ckpt) or Path(".")) / kind


def writable(folder: Path) -> None:
    """Make a folder, or raise an OSError of one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None


def given_or_newest(ckpt: str | None, purpose: str) -> str | Path:
    """The checkpoint that was given; else the last of the newest run, or a model that comes with the program.

    It says which it took where none was given.

    Raises:
        FileNotFoundError: if there is none; it says what for.
    """
    if ckpt:
        return ckpt
    if newest := checkpoint.newest(RUNS, kind="diffusion"):
        print(f"no --ckpt: {newest}, the last of the newest run")
        return newest
    if DEFAULT in checkpoint.shipped():
        print(f"no --ckpt, and no run in {RUNS}/: the model {DEFAULT} that comes with the program")
        return checkpoint.shipped()[DEFAULT]
    raise FileNotFoundError(f"no run in {RUNS}/ to {purpose}: give --ckpt, or train one with `make train`")
