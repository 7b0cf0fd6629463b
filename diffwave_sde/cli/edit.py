"""Change a given sound: WAV files, a page with before and after, and a record from which the same is made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffwave_sde import __version__, audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.cli import model_options, runs
from diffwave_sde.cli.path_options import expand_options
from diffwave_sde.editing import (
    Editor,
    GradientPosterior,
    LinearGaussian,
    LinearPosterior,
    Prepared,
    Projected,
    prepare,
)
from diffwave_sde.editing import restoration as repair
from diffwave_sde.editing.operations import METHODS
from diffwave_sde.editing.preparation import Regions, parse_regions, prepared
from diffwave_sde.editing.projection import between, known_band
from diffwave_sde.names import asked_for, escape, folder_name
from diffwave_sde.progress import progress_bar
from diffwave_sde.sounds import edits
from diffwave_sde.sounds.edits import Sound

ATTACK = 0.03  # seconds from the onset on that `--keep` calls the attack


@dataclass(frozen=True)
class Made:
    """What an operation came to: rows of before and after."""

    before: list[Sound | None]
    after: list[Sound]


@dataclass(frozen=True)
class Operation:
    """One thing to do to a sound.

    help: a line.
    files: names of its positional arguments.
    options: gives a parser its own options.
    make: (config, editor) -> what was made.
    """

    help: str
    files: tuple[str, ...]
    options: Callable[[ArgumentParser], None]
    make: Callable[[Namespace, Editor], Made]


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
    make(name, expand_options(parser(name).parse_args(argv[2:])))


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
        return p
    p.add_argument(
        "--label",
        type=str | None,
        help="class of the result, or a mix of classes, a:0.7+b:0.3 (default: the class that the file's folder or name "
        "is called by, else none)",
    )
    p.add_argument("--correct", type=int, default=0, help="Langevin steps after each step, for mixes and guidance")
    model_options.add(p)
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
    model = model_options.load(config, "edit with")
    text = config.label
    if text is None and name != "decode":
        text = _class_by_name(model, paths[0])
    asked = model_options.labels(model, 1, text) if text is not None else None
    editor = Editor(
        model,
        int(asked.ids[0]) if asked else -1,
        asked.mixes if asked else (),
        sampler,
        config.seed,
        config.clip,
        config.correct,
        config.resample if "resample" in config else 1,
        config.batch_size,
    )
    record = _record(name, said, paths, model, asked.names[0] if asked else None)
    if name == "encode":
        return _encode(config, editor, record)
    folder = Path(said.out) if said.out else _new_folder(model, paths[0], name)
    if edits.holds(folder, record):
        print(f"{folder}/ holds just that already; listen: {folder / 'index.html'}")
        return folder
    runs.writable(folder)
    with progress_bar("steps") as progress:
        task = progress.add_task(name, total=None)
        editor.progress = lambda done, total: progress.update(task, completed=done, total=total)
        made = operation.make(said, editor)
    edits.write(folder, f"{name}: {printed(paths)}", made.before, made.after, record, config.subtype)
    print(f"{len(made.after)} sound{'s' * (len(made.after) > 1)} in {folder}/; listen: {folder / 'index.html'}")
    return folder


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
        name, options, files = old["operation"], old["options"], old["files"]
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file: give an edit's folder, or its {edits.RECORD}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is no record of an edit") from None
    for one in files:
        if not Path(one["path"]).is_file() or _digest(Path(one["path"])) != one["digest"]:
            raise ValueError(f"{one['path']} is not the file that it was: an edit is made again of the same")
    return make(name, parser(name).parse_object({**options, "out": out or options.get("out")}))


def _again() -> ArgumentParser:
    p = ArgumentParser(prog="diffwave-sde edit again", description=_AGAIN, exit_on_error=False)
    p.add_argument("record", type=str, help=f"an edit's folder, or its {edits.RECORD}")
    p.add_argument("--out", type=str | None, help="folder for the results (default: as before)")
    return p


_AGAIN = "Make an edit again from its record."


# The operations


def _count(p: ArgumentParser, n: int = 4) -> None:
    p.add_argument("--n", type=int, default=n, help="number of results")


def _mask(p: ArgumentParser, required: bool, what: str) -> None:
    p.add_argument("--mask", type=str if required else str | None, required=required, help=what)
    _known(p)


def _known(p: ArgumentParser) -> None:
    """How what is known is told to the model."""
    p.add_argument(
        "--method",
        type=Literal[METHODS],  # type: ignore[valid-type]
        default="projection",
        help="projection: the denoiser's estimate is set to what is known; posterior: it is corrected by its own "
        "covariance, which takes 4 backward passes a step and fits better to what follows",
    )
    p.add_argument(
        "--resample",
        type=int,
        default=1,
        help="how often each step is taken, jumping back between (RePaint); more calls, for a better fit",
    )


def _inpaint_options(p: ArgumentParser) -> None:
    _mask(p, True, "parts to make anew, seconds: 0.10-0.25,0.3-end; the rest comes back bit for bit")
    _count(p)


def _inpaint(config: Namespace, editor: Editor) -> Made:
    sound = _prepared(config.file, editor)
    regions = _regions(config.mask, sound)
    return _inpainted(config, editor, sound, regions)


def _inpainted(config: Namespace, editor: Editor, sound: Prepared, regions: Regions) -> Made:
    """The regions made anew: together if the window at the onset holds them, else one by one in windows around each."""
    length, results = editor.model.length, []
    end = sound.begin + length / editor.model.rate
    together = all(sound.begin <= first and last <= min(end, sound.seconds) + 1e-9 for first, last in regions)
    for number in range(config.n):
        if together:
            window = editor.inpaint(sound.cut.window, sound.inside(regions), [number], config.method)[0]
            results.append(sound.give_back(window, regions))
            continue
        y = sound.original
        for turn, region in enumerate(regions):
            if region[1] - region[0] > length / editor.model.rate:
                raise ValueError(
                    f"--mask {region[0]:g}-{region[1]:g}: longer than the {length / editor.model.rate:.3f} s of a "
                    "window: make less anew, or take extend"
                )
            # As much before it as there is room for: what comes before a sound tells more than what comes after.
            at = max(region[1] + 0.1 * length / editor.model.rate - length / editor.model.rate, 0.0)
            part = _prepared_part(y, sound.rate, editor, min(at, region[0]))
            window = editor.inpaint(part.cut.window, part.inside([region]), [number * 1000 + turn], config.method)[0]
            y = part.give_back(window, [region])
        results.append(y)
    return _rows("inpaint", sound, results)


def _vary_options(p: ArgumentParser) -> None:
    p.add_argument(
        "--strength",
        type=float,
        default=0.5,
        help="how far from the file, 0 to 1: share of noise that is gone back from; 0 is the file, 1 a new sound",
    )
    p.add_argument(
        "--keep",
        type=Literal["none", "attack", "tail"],
        default="none",
        help=f"part that stays as it is: the first {ATTACK * 1000:g} ms from the onset, or all after them",
    )
    p.add_argument(
        "--resample", type=int, default=1, help="how often each step is taken, where a part is kept (RePaint)"
    )
    _count(p, 8)


def _vary(config: Namespace, editor: Editor) -> Made:
    sound = _prepared(config.file, editor)
    regions = None
    if config.keep != "none":
        split = sound.begin + audio.PRE_ROLL / editor.model.rate + ATTACK
        regions = [(split, sound.seconds)] if config.keep == "attack" else [(0.0, split)]
        if not 0 < split < sound.seconds:
            raise ValueError(f"--keep {config.keep}: {config.file} ends within its attack")
    free = None if regions is None else sound.inside(regions)
    windows = editor.vary(sound.cut.window, config.strength, range(config.n), free)
    return _rows("vary", sound, [sound.give_back(window, regions) for window in windows])


def _interpolate_options(p: ArgumentParser) -> None:
    p.add_argument("--steps", type=int, default=7, help="number of sounds, both ends included")
    p.add_argument(
        "--space",
        type=Literal["latent", "noise"],
        default="latent",
        help="latent: between the latents of the probability flow; noise: at a noise level, which keeps more of both",
    )
    p.add_argument("--strength", type=float, default=0.5, help="that noise level, 0 to 1, as of `edit vary`")


def _interpolate(config: Namespace, editor: Editor) -> Made:
    a, b = (_prepared(path, editor) for path in (config.first, config.second))
    windows = editor.interpolate(a.cut.window, b.cut.window, config.steps, config.space, config.strength)
    ends = [a.original, audio.resample(b.original, b.rate, a.rate)]
    results = [ends[0]]
    for i, window in enumerate(windows[1:-1], 1):
        share = i / (config.steps - 1)
        # The level goes from that of one to that of the other in equal steps of dB.
        window = window / (a.cut.gain ** (1 - share) * b.cut.gain**share)
        seconds = (1 - share) * (a.seconds - a.begin) + share * (b.seconds - b.begin)
        kept = audio.fade_out(window[: max(round(seconds * editor.model.rate), 2)], audio.DECLICK)
        results.append(audio.resample(kept, editor.model.rate, a.rate))
    results.append(ends[1])
    before: list[Sound | None] = [None] * config.steps
    before[0], before[-1] = _before(a), Sound(f"before 2 {Path(config.second).name}", b.original, b.rate)
    after = [Sound(f"{i:03d} interpolate", x, a.rate) for i, x in enumerate(results)]
    return Made(before, after)


def _extend_options(p: ArgumentParser) -> None:
    p.add_argument("--seconds", type=float, default=2.0, help="duration of the results, seconds")
    _known(p)
    _count(p)


def _extend(config: Namespace, editor: Editor) -> Made:
    sound = _prepared(config.file, editor)
    if config.seconds <= sound.seconds:
        raise ValueError(
            f"--seconds {config.seconds:g}: {config.file} lasts {sound.seconds:.3f} s already; ask for more"
        )
    rate, start = editor.model.rate, max(sound.cut.start, 0)
    own = (audio.resample(sound.original, sound.rate, rate)[start:] - sound.cut.dc) * sound.cut.gain
    have, total = len(own), round(config.seconds * rate) - start
    results = []
    for y in editor.extend(own, have, total, range(config.n), config.method):
        added = audio.resample((y / sound.cut.gain + sound.cut.dc).float(), rate, sound.rate)
        kept = len(sound.original) - round(start * sound.rate / rate)
        results.append(torch.cat((sound.original, added[kept:])))
    return _rows("extend", sound, results)


def _restore_options(p: ArgumentParser) -> None:
    p.add_argument("--task", type=Literal[repair.TASKS] | None, help="what is to be repaired")  # type: ignore[valid-type]
    p.add_argument(
        "--likelihood",
        type=str | None,
        help="FILE.py:CLASS in place of a task: a class made with (observed (1, 1, T), rate) whose log_prob(x) gives "
        "log p(observed | x) (B,) for waveforms x (B, 1, T)",
    )
    p.add_argument("--level", type=float | None, help="declip: level of the clipping, dBFS (default: the peak)")
    p.add_argument("--cutoff", type=float | None, help="bandwidth: Hz from where on it is to be made (default: found)")
    p.add_argument(
        "--noise", type=float | None, help="denoise: RMS of the noise, dBFS (default: of the quietest parts)"
    )
    _mask(p, False, "dropout: parts that are lost, seconds (default: runs of exact zeros)")
    _count(p, 1)


def _restore(config: Namespace, editor: Editor) -> Made:
    if (config.task is None) == (config.likelihood is None):
        raise ValueError("give --task or --likelihood, one of them")
    sound = _prepared(config.file, editor)
    numbers, mu, rate = range(config.n), editor.model.mu, editor.model.rate
    window = sound.cut.window
    try:
        if config.likelihood:
            likelihood = repair.own_likelihood(config.likelihood, window[None, None], rate)
            if mu:
                raise ValueError(
                    f"--likelihood is of waveforms, and {editor.model.path} sees companded ones (mu = {mu:g})"
                )
            made = editor.given(len(window), lambda d: GradientPosterior(d, likelihood), numbers)
        elif config.task == "declip":
            level = repair.clip_level(window) if config.level is None else _linear(config.level) * sound.cut.gain
            sound = sound.quieter(repair.HEADROOM)
            window, level = sound.cut.window, level * 10 ** (-repair.HEADROOM / 20)
            low, high = (audio.compress(b.clamp(-1, 1), mu) for b in repair.clip_bounds(window, level))
            made = editor.given(len(window), lambda d: Projected(d, between(low, high)), numbers)
        elif config.task == "dropout":
            return _dropout(config, editor, sound)
        elif config.task == "bandwidth":
            share = repair.cutoff(window) if config.cutoff is None else config.cutoff / rate
            made = editor.given(len(window), _known_band(config, audio.compress(window, mu), share), numbers)
        else:
            noise = repair.noise_level(window) if config.noise is None else _linear(config.noise) * sound.cut.gain
            made = editor.denoise(window, noise, numbers)
    except ValueError as error:
        raise ValueError(f"{config.file}: {error}") from error
    return _rows("restore", sound, [sound.give_back(one) for one in made])


def _dropout(config: Namespace, editor: Editor, sound: Prepared) -> Made:
    if config.mask is not None:
        regions = _regions(config.mask, sound)
    else:
        lost = repair.dropouts(sound.original)
        edges = torch.cat((lost.new_zeros(1), lost, lost.new_zeros(1))).int().diff().nonzero().flatten() / sound.rate
        regions = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    made = _inpainted(config, editor, sound, regions)
    return Made(made.before, [Sound(s.name.replace("inpaint", "restore"), s.waveform, s.rate) for s in made.after])


def _known_band(config: Namespace, x: Tensor, share: float) -> Callable:
    if config.method == "projection":
        return lambda d: Projected(d, known_band(x, share))
    low = known_band(torch.zeros_like(x), share)  # what is left of a sound above the cutoff
    likelihood = LinearGaussian(lambda D: D - low(D), (x - low(x[None, None])[0, 0])[None, None])
    return lambda d: LinearPosterior(d, likelihood)


def _encode_options(p: ArgumentParser) -> None:
    p.add_argument("--out", type=str | None, help="file of the latents (default: FILE.latents.safetensors, here)")


def _encode(config: Namespace, editor: Editor, record: dict[str, Any]) -> Path:
    sound = _prepared(config.file, editor)
    out = Path(config.out) if config.out else Path(f"{Path(config.file).stem}.latents.safetensors")
    with progress_bar("steps") as progress:
        task = progress.add_task("encode", total=None)
        editor.progress = lambda done, total: progress.update(task, completed=done, total=total)
        u = editor.encode(sound.cut.window)
    facts = {
        **record,
        "rate": sound.rate,
        "samples": len(sound.original),
        "start": sound.cut.start,
        "dc": sound.cut.dc,
        "gain": sound.cut.gain,
    }
    with atomic_write(out) as temporary:
        temporary.write_bytes(save({"latent": u.cpu().contiguous()}, {"diffwave_sde": json.dumps(facts, default=str)}))
    beyond = sound.seconds - (sound.begin + editor.model.length / editor.model.rate)
    note = f"; the last {beyond:.2f} s of the file, beyond the model's window, are not in it" if beyond > 0.001 else ""
    print(f"latents in {out}{note}; back: diffwave-sde edit decode {out}")
    return out


def _decode_options(p: ArgumentParser) -> None:
    del p  # it has none of its own


def _latents(path: str) -> tuple[dict[str, Any], Tensor]:
    """What `encode` wrote: the facts, and the state.

    Raises:
        ValueError: if it wrote none of it.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["diffwave_sde"]), file.get_tensor("latent")
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        raise ValueError(f"{path} holds no latents: make them with `diffwave-sde edit encode`") from None


def _as_encoded(config: Namespace) -> Namespace:
    """The options that `encode` had, on this device: the same class, guidance and steps lead back to the sound."""
    facts, _ = _latents(config.file)
    label = facts["label"] and facts["label"].replace(",", "\\,")
    options = {**facts["options"], "file": config.file, "label": label, "ckpt": config.ckpt or facts["model"]["path"]}
    options |= {name: config[name] for name in ("device", "batch_size", "subtype")}
    return parser("encode").parse_object(options)


def _decode(config: Namespace, editor: Editor) -> Made:
    facts, u = _latents(config.file)
    if facts["model"]["step"] != editor.model.step:
        theirs = facts["model"]
        raise ValueError(
            f"{config.file} is of {theirs['path']}, step {theirs['step']:,}, and {editor.model.path} is of step "
            f"{editor.model.step:,}: give the model that it was made with, --ckpt"
        )
    window = editor.decode(u)[0]
    rate, model_rate = facts["rate"], editor.model.rate
    x = window / facts["gain"] + facts["dc"]
    start = facts["start"]
    x = torch.cat((x.new_full((max(start, 0),), facts["dc"]), x[max(-start, 0) :]))
    x = audio.resample(x, model_rate, rate)[: facts["samples"]]
    x = torch.cat((x, x.new_full((facts["samples"] - len(x),), facts["dc"])))
    return Made([None], [Sound("000 decode", x, rate)])


# What they share


def _prepared(path: str, editor: Editor) -> Prepared:
    return prepare(path, editor.model.length, editor.model.rate)


def _prepared_part(x: Tensor, rate: int, editor: Editor, at: float) -> Prepared:
    return prepared(x, rate, editor.model.length, editor.model.rate, at)


def _regions(text: str, sound: Prepared) -> Regions:
    try:
        return parse_regions(text, sound.seconds)
    except ValueError as error:
        raise ValueError(f"--mask {error}") from error


def _linear(decibels: float) -> float:
    return 10 ** (decibels / 20)


def _before(sound: Prepared) -> Sound:
    return Sound("before", sound.original, sound.rate)


def _rows(name: str, sound: Prepared, results: list[Tensor]) -> Made:
    before = _before(sound)
    return Made([before] * len(results), [Sound(f"{i:03d} {name}", x, sound.rate) for i, x in enumerate(results)])


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
    return next(f for i in range(1, 10_000) if not (f := home / (stem if i == 1 else f"{stem}-{i}")).exists())


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
        "files": [{"path": str(path.resolve()), "digest": _digest(path)} for path in paths],
    }


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


OPERATIONS = {
    "inpaint": Operation("make parts of a sound anew", ("file",), _inpaint_options, _inpaint),
    "vary": Operation("make variations of a sound", ("file",), _vary_options, _vary),
    "interpolate": Operation("go from one sound to another", ("first", "second"), _interpolate_options, _interpolate),
    "encode": Operation("write a sound's latents", ("file",), _encode_options, lambda config, editor: None),
    "decode": Operation("make the sound of latents", ("file",), _decode_options, _decode),
    "extend": Operation("make a sound longer", ("file",), _extend_options, _extend),
    "restore": Operation("repair a sound", ("file",), _restore_options, _restore),
}
