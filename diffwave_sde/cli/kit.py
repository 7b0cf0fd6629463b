"""Make a drum kit to take away: WAV files on General MIDI keys, for SFZ players, Hydrogen and Decent Sampler."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffwave_sde import checkpoint, kits
from diffwave_sde.cli import model_options, runs
from diffwave_sde.cli.path_options import parse
from diffwave_sde.kits import making, mastering, watch
from diffwave_sde.kits.keys import name_of_note
from diffwave_sde.kits.source import Source
from diffwave_sde.names import folder_name, listed, split, typed
from diffwave_sde.progress import progress_bar

EACH = 4
"""Sounds of each class where none is named."""


def run(argv: list[str]) -> None:
    """Run `diffwave-sde kit`."""
    rest, named = class_options(argv[1:])
    make(parse(parser(), rest), named)


def class_options(argv: list[str]) -> tuple[list[str], dict[str, int]]:
    """A command line without its `--CLASS NUMBER`, and these: every option that the verb has not is a class's.

    Raises:
        ValueError: if no number follows one.
    """
    known = {name.partition(".")[0] for name in parser().get_defaults().keys()} | {"help", "print_config"}  # noqa: SIM118
    rest, named, words = [], {}, iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name or name.partition(".")[0] in known:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value.isdecimal():
            given = f", not {value}" if value else ""
            raise ValueError(
                f"--{name}: no option of `kit`; if it is a class, give the number of its sounds{given}: --{name} 4"
            )
        named[name] = int(value)
    return rest, named


def make(config: Namespace, named: dict[str, int] | None = None) -> Path:
    """Make the kit that the options ask for, or sounds in a folder that is watched; the folder."""
    if config.n is not None and config.n < 1:
        raise ValueError(f"--n {config.n}: ask for at least one sound")
    if config.length is not None and config.length < 1:
        raise ValueError(f"--length {config.length}: a sound has at least one sample")
    try:
        finish = mastering.Mastering(config.rate, config.levels, config.peak, config.silence)
        package = making.Package(
            config.name, tuple(part for text in config.format for part in split(text) if part), config.subtype,
            config.layers, config.robins, config.strength, finish, config.zip,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    wanted = _wanted(config.sounds, named or {})
    sampler = parser().instantiate_classes(config).sampler
    model = model_options.load(config, "make a kit with", cascade=True, latent=True)
    asked = _asked(model, wanted, named or {}, config)
    source = Source(model, sampler, config.seed, config.length, config.clip, config.batch_size, config.licence)
    if config.watch is not None:
        return _watch(source, Path(config.watch), asked, finish, config)
    out = Path(config.out) if config.out else runs.output_dir(model.path, "kits") / f"{_name(source)}-{config.seed}"
    runs.writable(out)
    with progress_bar("sounds") as progress:
        task = progress.add_task("making the kit", total=None)
        began = time.perf_counter()
        made = making.make_kit(
            source,
            out,
            asked,
            package,
            _record(config),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    _report(made, package, out, time.perf_counter() - began)
    return out


def parser() -> ArgumentParser:
    """The options of the verb; `--CLASS NUMBER` beside them is for `class_options`."""
    p = ArgumentParser(
        prog="diffwave-sde kit",
        description=f"{__doc__} --CLASS NUMBER asks for so many sounds of a class of the model: --kick 4 --snare 4.",
        exit_on_error=False,
    )
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    model_options.add(p)
    p.set_defaults({"subtype": "PCM_24"})
    p.add_argument(
        "--sounds",
        type=str | None,
        help="CLASS=NUMBER,..., for what --CLASS NUMBER cannot say: mixes of classes, kick:0.7+snare:0.3=4, and "
        f"classes called as an option (default: {EACH} of each class)",
    )
    p.add_argument(
        "--label",
        type=str | None,
        help="classes or mixes of them, a,b:0.7+c:0.3,..., for --n and --watch (default: all)",
    )
    p.add_argument("--n", type=int | None, help="sounds in all, of these classes in turn; with --watch, when to stop")
    p.add_argument("--out", type=str | None, help="folder of the kit (default: RUN/kits/NAME-SEED, or kits/MODEL/...)")
    p.add_argument("--name", type=str | None, help="name of the kit (default: that of its folder)")
    p.add_argument(
        "--format",
        type=str,
        nargs="+",
        default=["sfz"],
        help=f"{', '.join(making.FORMATS)}; several may stand there. The WAV files are written in any case",
    )
    p.add_argument("--zip", action="store_true", help="pack the folder as a zip beside it, and .dspreset as .dslibrary")
    p.add_argument("--layers", type=int, default=1, help="velocity layers: each key gets so many ranges of velocities")
    p.add_argument("--robins", type=int, default=1, help="round robins: so many variations of a layer, played in turn")
    p.add_argument(
        "--strength",
        type=float,
        default=0.25,
        help="how far those variations are from the sound, 0 to 1, as of `diffwave-sde edit vary`",
    )
    p.add_argument("--rate", type=Literal[44100, 48000], default=44100, help="sample rate of the WAV files, Hz")
    p.add_argument(
        "--levels",
        type=mastering.Levels,
        default="kit",
        help="kit: one gain for all, which keeps their balance; instrument: one for each; none: as the model made them",
    )
    p.add_argument("--peak", type=float, default=-1.0, help="peak that the gain brings the loudest sound to, dBFS")
    p.add_argument(
        "--silence", type=float, default=-60.0, help="what stays below this level to the end is cut off, dB re the peak"
    )
    p.add_argument(
        "--licence", type=str | None, help="licence, for the files to tell (default: that of the model's card)"
    )
    p.add_argument("--length", type=int | None, help="length in samples, before silence is cut (default: as trained)")
    p.add_argument(
        "--watch", type=str | None, help="put new sounds into this folder, one after the other, until Ctrl-C or --n"
    )
    return p


def _wanted(text: str | None, named: dict[str, int]) -> dict[str, int]:
    """How many of what: of `--sounds`, and of `--CLASS NUMBER`."""
    wanted = {}
    for part in split(text) if text else []:
        name, equals, number = part.rpartition("=")
        if not equals or not number.strip().isdecimal():
            raise ValueError(f"--sounds {part}: write CLASS=NUMBER, such as kick=4")
        wanted[typed(name.strip())] = int(number)
    for name, number in named.items():
        if typed(name) in wanted:
            raise ValueError(f"--{name} {number}: --sounds says how many of {name}; leave one of them out")
        wanted[typed(name)] = number
    return {name: number for name, number in wanted.items() if number}


def _asked(
    model: checkpoint.LoadedModel, wanted: dict[str, int], named: dict[str, int], config: Namespace
) -> dict[str, int]:
    """How many of what the model is asked for."""
    conditional = bool(model.module.denoiser.net.classes)
    if not conditional and wanted:
        option = next(iter(named), "sounds")
        raise ValueError(f"--{option}: {model.path} was trained without classes; say --n 16, for instance")
    known = [typed(name) for name in model.labels] if conditional else ["sound"]
    if config.label is not None:
        if wanted:
            raise ValueError(f"--label {config.label}: the classes are said already; leave it out, or them")
        model_options.labels(model, 1, config.label)
        known = list(dict.fromkeys(typed(name) for name in split(config.label)))
    for name in named:
        try:
            model_options.labels(model, 1, typed(name))
        except ValueError:
            raise ValueError(
                f"--{name}: no option of `kit`, and no class of {model.path}: it has {listed(model.labels)}"
            ) from None
    for name in set(wanted) - {typed(name) for name in named}:
        try:
            model_options.labels(model, 1, name)
        except ValueError as error:
            raise ValueError(str(error).replace("--label", "--sounds", 1)) from None
    if wanted or config.watch is not None:
        if wanted and config.n is not None and config.watch is None:
            raise ValueError(f"--n {config.n}: the classes say how many already; leave it out, or them")
        return wanted or dict.fromkeys(known, 1)
    if config.n is None:
        return dict.fromkeys(known, EACH)
    return {name: config.n // len(known) + (i < config.n % len(known)) for i, name in enumerate(known[: config.n])}


def _record(config: Namespace) -> dict[str, Any]:
    """What the sounds follow from beside the model and the arguments of `Source`."""
    return {
        "weights": config.weights,
        "options": _portable(config.sampler.as_dict()) if config.sampler else "the model's own",
        "weak": config.weak and Path(config.weak).name,
        "precision": config.precision,
    }


def _portable(options: Any) -> Any:
    """Options without the folders of this machine: a kit is given away with its record."""
    if isinstance(options, dict):
        return {name: _portable(value) for name, value in options.items()}
    return Path(options).name if isinstance(options, str) and os.sep in options else options


def _name(source: Source) -> str:
    return folder_name(source.name) or "kit"


def _watch(source: Source, folder: Path, asked: dict[str, int], finish: mastering.Mastering, config: Namespace) -> Path:
    """Put sounds into a folder until there are enough, or Ctrl-C."""
    for option in ("out", "zip", "name"):
        if config[option]:
            raise ValueError(f"--{option} is for a kit, and --watch for single sounds: leave one of them out")
    for option in ("layers", "robins"):
        if config[option] > 1:
            raise ValueError(f"--{option} is for a kit, and --watch for single sounds: leave one of them out")
    runs.writable(folder)
    until = f"{config.n} sounds" if config.n else "sounds until Ctrl-C"
    print(f"{until} in {folder}/", flush=True)
    count = 0
    try:
        for one in itertools.islice(watch.drop(source, folder, asked, finish, config.subtype), config.n):
            count += 1
            changed = f", {one.gain:+.1f} dB" if round(one.gain, 1) else ""
            print(f"{one.file.name}  {one.seconds:.2f} s, peak {one.peak:.1f} dBFS{changed}", flush=True)
    except KeyboardInterrupt:
        print()  # after ^C
    print(f"{count} sound{'s' * (count != 1)} in {folder}/")
    return folder


def _report(made: making.Made, package: making.Package, out: Path, seconds: float) -> None:
    """Print the keys, the gain, and where everything is."""
    table = Table("key", "note", "instrument", "hits", "gain, dB")
    for instrument, gain in zip(made.kit.instruments, made.gains, strict=True):
        name = Text(instrument.title)
        note = name_of_note(instrument.key)
        table.add_row(str(instrument.key), note, name, _hits(instrument), f"{gain:+.1f}")
    Console().print(table)
    if package.mastering.levels == "kit" and made.gains:
        print(f"one gain for all, {made.gains[0]:+.2f} dB: the loudest sound peaks at {package.mastering.peak:g} dBFS")
    if made.beyond:
        kept = "the WAV files keep it, players cut it" if package.subtype == "FLOAT" else "it was cut"
        print(f"{made.beyond} files go beyond full scale: {kept}; --levels kit keeps them within")
    new, kept = made.sounds
    there = f", {kept} were there already" if kept else ""
    files = "".join(f"\n  {os.path.normpath(out / file)}" for file in made.files)
    print(
        f"{len(made.kit.instruments)} instruments, {len(made.kit.files)} WAV files in {out}/Samples/; {new} sound"
        f"{'s' * (new != 1)} made in {seconds:.1f} s{there}{files}"
    )


def _hits(instrument: kits.Instrument) -> str:
    layers, turns = len(instrument.layers), instrument.turns
    return "1" if layers * turns == 1 else f"{layers} layers of {turns}" if turns > 1 else f"{layers} layers"
