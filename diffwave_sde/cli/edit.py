"""Change a given sound: WAV files, a page with before and after, and a record from which the same is made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from diffwave_sde import __version__, audio, trust
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.cli import model_options, neighbour_options, runs
from diffwave_sde.cli.edit_operations import OPERATIONS
from diffwave_sde.cli.path_options import expand_options, parse
from diffwave_sde.editing import Editor, files, make_editor
from diffwave_sde.editing.preparation import prepared
from diffwave_sde.names import asked_for, digest, escape, folder_name
from diffwave_sde.progress import progress_bar
from diffwave_sde.sounds import edits
from diffwave_sde.track import Track

if TYPE_CHECKING:
    from diffwave_sde.metrics.neighbours import Index, Neighbour


def run(argv: list[str]) -> None:
    """Run `diffwave-sde edit`."""
    if len(argv) < 2 or argv[1] in ("-h", "--help"):
        print(usage())
        return
    name = argv[1]
    if name == "again":
        config = _again().parse_args(argv[2:])
        again(Path(expand_options(config).record), config.out)
        return
    if name not in OPERATIONS:
        raise ValueError(f"no operation {name!r}: choose one of {', '.join(OPERATIONS)}, again")
    make(name, parse(parser(name), argv[2:]))


def usage() -> str:
    """What `diffwave-sde edit` prints."""
    lines = [f"  {name:<13}{' '.join(one.files).upper():<8}{one.help}" for name, one in OPERATIONS.items()]
    lines.append(f"  {'again':<13}{'RECORD':<8}make an edit again from its {edits.RECORD}")
    head = "usage: diffwave-sde edit OPERATION FILE [options]\n\nChange a given sound.\n\noperations:\n"
    return head + "\n".join(lines) + "\n\n`diffwave-sde edit OPERATION --help` lists its options."


def parser(name: str) -> ArgumentParser:
    """The options of an operation."""
    operation = OPERATIONS[name]
    p = ArgumentParser(
        prog=f"diffwave-sde edit {name}",
        description=f"{operation.help[0].upper()}{operation.help[1:]}.",
        exit_on_error=False,
    )
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    for file in operation.files:
        what = "latents that `edit encode` wrote" if name == "decode" else "file of sound that libsndfile reads"
        p.add_argument(file, type=str, help=what)
    operation.options(p)
    if name != "encode":
        p.add_argument("--out", type=str | None, help="folder for the results (default: a new one in RUN/edits)")
    if name == "decode":  # the rest is as it was for `encode`
        p.add_argument("--ckpt", type=str | None, help="the model (default: where it was when they were made)")
        model_options.add_output(p)
        neighbour_options.add(p)
        return p
    p.add_argument(
        "--label",
        type=str | None,
        help="class of the result, or a mix of classes, a:0.7+b:0.3 (default: the class that the file's folder or name "
        "is called by, else none)",
    )
    p.add_argument(
        "--audio",
        type=str | None,
        help="a sound file that the sound goes with, begun at the same moment, of any rate, mixed to mono; for a model "
        "that was trained on pairs; --guidance.audio says how closely it is to follow (default: none)",
    )
    p.add_argument("--correct", type=int, default=0, help="Langevin steps after each step, for mixes and guidance")
    model_options.add(p)
    if name != "encode":
        neighbour_options.add(p)
    return p


def make(name: str, config: Namespace) -> Path | None:
    """Do what the options ask for; the folder that holds the results, or the file of latents."""
    for option, least in (("n", 1), ("correct", 0), ("resample", 1)):
        if option in config and config[option] < least:
            raise ValueError(f"--{option} {config[option]}: must be at least {least}")
    operation = OPERATIONS[name]
    paths = [Path(config[file]) for file in operation.files]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{escape(str(path))}: no such file")
    said = config
    if name == "decode":
        config = _as_encoded(config)
    sampler = parser("encode" if name == "decode" else name).instantiate_classes(config).sampler
    model = model_options.load(config, "edit with", cascade=True, latent=True)
    text = config.label
    if text is None and name != "decode":
        text = _class_by_name(model, paths[0])
    asked = model_options.labels(model, 1, text) if text is not None else None
    track = _track(model, config.audio)
    sources = [*paths, *([Path(config.audio)] if track is not None else [])]
    editor = make_editor(
        model,
        int(asked.ids[0]) if asked else -1,
        asked.mixes if asked else (),
        sampler,
        config.seed,
        config.clip,
        config.correct,
        config.resample if "resample" in config else 1,
        config.batch_size,
        track=track,
    )
    record = _record(name, said, sources, model, asked.names[0] if asked else None)
    if name == "encode":
        return _encode(config, editor, record)
    folder = Path(said.out) if said.out else _new_folder(model, paths[0], name)
    if edits.holds(folder, record):
        print(f"{folder}/ holds just that already; listen: {folder / 'index.html'}")
        return folder
    runs.writable(folder)
    with _shown(name, editor):
        made = operation.make(said, editor)
    if made.remark:
        print(made.remark)
    index = neighbour_options.index(said, model) if neighbour_options.wanted(said) else None
    found = index.find(windows(made.after, model)) if index else []
    near = nearest(found, index) if index else None
    edits.write(folder, f"{name}: {printed(paths)}", made.before, made.after, record, config.subtype, near)
    if index:
        print(neighbour_options.report(found, index))
    print(f"{len(made.after)} sound{'s' * (len(made.after) > 1)} in {folder}/; listen: {folder / 'index.html'}")
    return folder


def _track(model: LoadedModel, path: str | None) -> Tensor | None:
    """The waveform (T,), at the model's rate, of the file that a sound goes with, if there is one."""
    if path is None:
        return None
    model.check_hears(path)
    track = Track.read(path, model.rate, model.length)
    for line in track.remarks:
        print(line)
    return track.waveform


def windows(sounds: list[edits.Sound], model: LoadedModel) -> Tensor:
    """Sounds as the training clips are: one window each, (n, T)."""
    rate, paired = model.rate, model.hears
    return torch.stack([prepared(s.waveform, s.rate, model.length, rate, None, paired).cut.window for s in sounds])


def nearest(found: list[Neighbour], index: Index) -> list[edits.Nearest]:
    """What a page tells of the training clips that were found."""
    clips = index.clips([one.row for one in found])
    return [
        edits.Nearest(one.record, str(one), edits.Sound(one.file, clip, audio.RATE))
        for one, clip in zip(found, clips, strict=True)
    ]


def printed(paths: list[Path]) -> str:
    """The names of files, on a line."""
    return ", ".join(escape(path.name) for path in paths)


def again(record: Path, out: str | None) -> Path | None:
    """Make an edit again from its record.

    Raises:
        ValueError: if the record is none, or a file is no longer what it was.
    """
    file = record / edits.RECORD if record.is_dir() else record
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
        name, options, sources = old["operation"], old["options"], old["files"]
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file: give an edit's folder, or its {edits.RECORD}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is no record of an edit") from None
    for one in sources:
        _check_unchanged(one, "an edit is made again of the same")
    options = _own(options, file)
    return make(name, parser(name).parse_object({**options, "out": out or options.get("out")}))


def _check_unchanged(file: dict[str, str], why: str) -> None:
    """Raise a ValueError if a file of a record is no longer what it was."""
    if not Path(file["path"]).is_file() or digest(Path(file["path"]).read_bytes()) != file["digest"]:
        raise ValueError(f"{file['path']} is not the file that it was: {why}")


def _own(options: dict[str, Any], where: Path | str) -> dict[str, Any]:
    """The options of a record, which may be somebody else's: they name this program's classes, and no further files.

    Raises:
        Untrusted: if they name other classes.
    """
    options = {key: value for key, value in options.items() if key != "config"}
    # The others are numbers and text, which nothing imports.
    trust.check({key: value for key, value in options.items() if key.startswith("sampler")}, where)
    return options


def _again() -> ArgumentParser:
    p = ArgumentParser(prog="diffwave-sde edit again", description=_AGAIN, exit_on_error=False)
    p.add_argument("record", type=str, help=f"an edit's folder, or its {edits.RECORD}")
    p.add_argument("--out", type=str | None, help="folder for the results (default: as before)")
    return p


_AGAIN = "Make an edit again from its record."


def _encode(config: Namespace, editor: Editor, record: dict[str, Any]) -> Path:
    out = Path(config.out) if config.out else Path(f"{Path(config.file).stem}.latents.safetensors")
    with _shown("encode", editor):
        files.write_latents(editor, config.file, out, record)
    print(f"latents in {out}; back: diffwave-sde edit decode {out}")
    return out


@contextmanager
def _shown(name: str, editor: Editor) -> Iterator[None]:
    """A bar of the editor's steps."""
    with progress_bar("steps") as progress:
        task = progress.add_task(name, total=None)
        editor.progress = lambda done, total: progress.update(task, completed=done, total=total)
        yield


def _as_encoded(config: Namespace) -> Namespace:
    """The options that `encode` had, on this device: the same class, guidance and steps lead back to the sound."""
    facts, *_ = files.read_latents(config.file)
    tracks = facts.get("files", [])[1:]  # what the sound goes with, if there is anything
    for one in tracks:
        _check_unchanged(one, "latents lead back with the same track")
    label = facts["label"] and facts["label"].replace(",", "\\,")
    options = {**facts["options"], "file": config.file, "label": label, "ckpt": config.ckpt or facts["model"]["path"]}
    options |= {"audio": tracks[0]["path"]} if tracks else {}
    options |= {name: config[name] for name in ("device", "batch_size", "subtype")}
    return parser("encode").parse_object(_own(options, config.file))


def _class_by_name(model: LoadedModel, path: Path) -> str | None:
    """The class that a file's folder, or its own name, is called by; told, since it was not asked for."""
    own = [label for label in model.labels if label.lower() in path.stem.lower()]
    found = asked_for(path.resolve().parent.name, model.labels) or (own[0] if len(own) == 1 else None)
    if found is not None:
        print(f"class: {found}, by the file's name; --label says otherwise")
    return found.replace(",", "\\,") if found is not None else None


def _new_folder(model: LoadedModel, path: Path, name: str) -> Path:
    home = runs.output_dir(model.path, "edits")
    stem = f"{folder_name(path.stem) or 'sound'}-{name}"
    return next(folder for folder in runs.numbered(home, stem) if not folder.exists())


def _record(name: str, config: Namespace, paths: list[Path], model: LoadedModel, label: str | None) -> dict[str, Any]:
    options = json.loads(parser(name).dump(config, skip_none=False, format="json"))
    options.pop("config", None)
    out = options.pop("out", None)
    return {
        "operation": name,
        "version": __version__,
        "options": options | ({"out": out} if name == "encode" else {}),
        "label": label,
        "model": {"path": str(model.path), "step": model.step},
        "files": [{"path": str(path.resolve()), "digest": digest(path.read_bytes())} for path in paths],
    }
