"""What is done to files of sound: each is prepared, changed by an `Editor`, and given back at its own rate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.editing import restoration
from diffwave_sde.editing.operations import Editor
from diffwave_sde.editing.preparation import Prepared, Regions, parse_regions, placed, prepare, prepared
from diffwave_sde.sounds.edits import Sound

ATTACK = 0.03  # seconds from the onset on that `keep` calls the attack
KEEP = ("none", "attack", "tail")


@dataclass(frozen=True)
class Made:
    """What an operation came to: rows of before and after, and what is to be told of it, if anything."""

    before: list[Sound | None]
    after: list[Sound]
    remark: str = ""


def inpaint(editor: Editor, file: str, mask: str, n: int, method: str) -> Made:
    """Parts of a file, as of `parse_regions`, made anew, n times; `method` is as of `Editor.inpaint`."""
    sound = _prepared(editor, file)
    return _inpainted(editor, sound, _regions(mask, sound), n, method)


def _inpainted(editor: Editor, sound: Prepared, regions: Regions, n: int, method: str, name: str = "inpaint") -> Made:
    """The regions made anew: together if the window at the onset holds them, else one by one in windows around each."""
    results = []
    end = sound.begin + _window(editor)
    together = all(sound.begin <= first and last <= min(end, sound.seconds) + 1e-9 for first, last in regions)
    for number in range(n):
        if together:
            at = editor.placed(sound.cut.start)
            window = at.inpaint(sound.cut.window, sound.inside(regions), [number], method)[0]
            results.append(sound.give_back(window, regions))
        else:
            results.append(_one_by_one(editor, sound, regions, number, method))
    return _rows(name, sound, results)


def _one_by_one(editor: Editor, sound: Prepared, regions: Regions, number: int, method: str) -> Tensor:
    y, seconds = sound.original, _window(editor)
    for turn, region in enumerate(regions):
        if region[1] - region[0] > seconds:
            raise ValueError(
                f"--mask {region[0]:g}-{region[1]:g}: longer than the {seconds:.3f} s of a "
                "window: make less anew, or take extend"
            )
        # As much before it as there is room for: what comes before a sound tells more than what comes after.
        model, at = editor.model, max(region[1] + 0.1 * seconds - seconds, 0.0)
        part = prepared(y, sound.rate, model.length, model.rate, min(at, region[0]), model.hears)
        there, free = editor.placed(part.cut.start), part.inside([region])
        window = there.inpaint(part.cut.window, free, [number * 1000 + turn], method)[0]
        y = part.give_back(window, [region])
    return y


def vary(editor: Editor, file: str, strength: float, keep: str, n: int) -> Made:
    """Variations of a file, n of them.

    Args:
        editor: makes them.
        file: the file.
        strength: as of `Editor.vary`.
        keep: what stays as it is: none; the attack, `ATTACK` from the onset on; or the tail, all after that.
        n: number of results.

    Raises:
        ValueError: if the file ends within its attack, and a part is kept; or the model is of parts of tracks, which
            have many.
    """
    sound = _prepared(editor, file)
    regions = None
    if keep != "none" and editor.model.hears:
        raise ValueError(f"--keep {keep}: a part of a track has no one attack; `edit inpaint --mask` keeps any of it")
    if keep != "none":
        split = sound.begin + audio.PRE_ROLL / editor.model.rate + ATTACK
        regions = [(split, sound.seconds)] if keep == "attack" else [(0.0, split)]
        if not 0 < split < sound.seconds:
            raise ValueError(f"--keep {keep}: {file} ends within its attack")
    free = None if regions is None else sound.inside(regions)
    windows = editor.placed(sound.cut.start).vary(sound.cut.window, strength, range(n), free)
    return _rows("vary", sound, [sound.give_back(window, regions) for window in windows], _beyond(editor, sound))


def interpolate(editor: Editor, first: str, second: str, steps: int, space: str, strength: float) -> Made:
    """`steps` sounds from one file to the other, both included; `space`, `strength` as of `Editor.interpolate`."""
    a, b = (_prepared(editor, path) for path in (first, second))
    if editor.model.hears and max(a.seconds, b.seconds) > _window(editor) + 0.001:
        raise ValueError(
            f"interpolate goes between windows of {_window(editor):.3f} s, and one of these parts lasts "
            f"{max(a.seconds, b.seconds):.3f} s: cut both to the same bars first"
        )
    windows = editor.interpolate(a.cut.window, b.cut.window, steps, space, strength)
    ends = [a.original, audio.resample(b.original, b.rate, a.rate)]
    results = [ends[0]]
    for i, window in enumerate(windows[1:-1], 1):
        share = i / (steps - 1)
        # The level goes from that of one to that of the other in equal steps of dB.
        window = window / (a.cut.gain ** (1 - share) * b.cut.gain**share)
        seconds = (1 - share) * (a.seconds - a.begin) + share * (b.seconds - b.begin)
        kept = audio.fade_out(window[: max(round(seconds * editor.model.rate), 2)], audio.DECLICK)
        results.append(audio.resample(kept, editor.model.rate, a.rate))
    results.append(ends[1])
    before: list[Sound | None] = [None] * steps
    before[0], before[-1] = _before(a), Sound(f"before 2 {Path(second).name}", b.original, b.rate)
    return Made(before, [Sound(f"{i:03d} interpolate", x, a.rate) for i, x in enumerate(results)])


def extend(editor: Editor, file: str, seconds: float, n: int, method: str) -> Made:
    """A file gone on with until it lasts so many seconds, n times; `method` is as of `Editor.inpaint`.

    Raises:
        ValueError: if it does already.
    """
    sound = _prepared(editor, file)
    if seconds <= sound.seconds:
        raise ValueError(f"--seconds {seconds:g}: {file} lasts {sound.seconds:.3f} s already; ask for more")
    rate, start = editor.model.rate, max(sound.cut.start, 0)
    own = (audio.resample(sound.original, sound.rate, rate)[start:] - sound.cut.dc) * sound.cut.gain
    have, total = len(own), round(seconds * rate) - start
    results = []
    for y in editor.placed(start).extend(own, have, total, range(n), method):
        added = audio.resample((y / sound.cut.gain + sound.cut.dc).float(), rate, sound.rate)
        kept = len(sound.original) - round(start * sound.rate / rate)
        results.append(torch.cat((sound.original, added[kept:])))
    return _rows("extend", sound, results)


def restore(
    editor: Editor,
    file: str,
    task: str | None,
    likelihood: str | None = None,
    level: float | None = None,
    cutoff: float | None = None,
    noise: float | None = None,
    mask: str | None = None,
    method: str = "projection",
    n: int = 1,
) -> Made:
    """A file repaired, n times.

    Args:
        editor: makes the results.
        file: the file.
        task: one of `restoration.TASKS`.
        likelihood: in place of a task, FILE.py:CLASS as of `restoration.own_likelihood`.
        level: declip: dBFS at which it was clipped; found by default, as are the next three.
        cutoff: bandwidth: Hz above which nothing is known.
        noise: denoise: RMS of the noise, dBFS.
        mask: dropout: what is lost, as of `parse_regions`.
        method: as of `Editor.inpaint`, for dropout and bandwidth.
        n: number of results.

    Raises:
        ValueError: if there are both or neither of task and likelihood, or if nothing is found to be repaired.
    """
    if (task is None) == (likelihood is None):
        raise ValueError("give --task or --likelihood, one of them")
    sound = _prepared(editor, file)
    numbers, mu, rate = range(n), editor.model.mu, editor.model.rate
    window, editor = sound.cut.window, editor.placed(sound.cut.start)
    try:
        if likelihood:
            made = editor.given(len(window), restoration.by_likelihood(likelihood, window, editor.model), numbers)
        elif task == "declip":
            level = restoration.clip_level(window) if level is None else audio.gain_of(level) * sound.cut.gain
            sound = sound.quieter(restoration.HEADROOM)
            level = level * audio.gain_of(-restoration.HEADROOM)
            made = editor.given(len(window), restoration.declip(sound.cut.window, level, mu), numbers)
        elif task == "dropout":
            regions = restoration.gaps(sound) if mask is None else _regions(mask, sound)
            return _inpainted(editor, sound, regions, n, method, "restore")
        elif task == "bandwidth":
            share = restoration.cutoff(window) if cutoff is None else cutoff / rate
            made = editor.given(len(window), restoration.widen(audio.compress(window, mu), share, method), numbers)
        else:
            level = restoration.noise_level(window) if noise is None else audio.gain_of(noise) * sound.cut.gain
            made = editor.denoise(window, level, numbers)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return _rows("restore", sound, [sound.give_back(one) for one in made], _beyond(editor, sound))


def write_latents(editor: Editor, file: str, out: Path, record: dict[str, Any]) -> None:
    """Write the latents of a file with all that it takes to come back from them.

    That is `latent`, the state at t_max that leads to the window, and `outside`, the file's samples less what the
    window holds of them: what comes before it and after it, DC, and what was faded.

    Args:
        editor: its flow leads to them.
        file: the file of sound.
        out: the file of the latents.
        record: further facts, as JSON holds them: `read_latents` gives them back.
    """
    sound = _prepared(editor, file)
    u = editor.placed(sound.cut.start).encode(sound.cut.window)
    facts = {
        **record,
        "rate": sound.rate,
        "samples": len(sound.original),
        "start": sound.cut.start,
        "gain": sound.cut.gain,
    }
    outside = sound.original - _in_file(sound.cut.window, facts, editor)
    tensors = {"latent": u.cpu().contiguous(), "outside": outside}
    with atomic_write(out) as temporary:
        temporary.write_bytes(save(tensors, {"diffwave_sde": json.dumps(facts, default=str)}))


def read_latents(file: str) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What `write_latents` wrote: the facts, the state, and what lies outside of the window.

    Raises:
        ValueError: if it wrote none of it.
    """
    try:
        with safe_open(file, "pt") as latents:
            facts = json.loads(latents.metadata()["diffwave_sde"])
            return facts, latents.get_tensor("latent"), latents.get_tensor("outside")
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        raise ValueError(f"{file} holds no latents: make them with `diffwave-sde edit encode`") from None


def decode(editor: Editor, file: str) -> Made:
    """The sound of a file of latents.

    Raises:
        ValueError: if they are of another model, or of another step of it.
    """
    facts, u, outside = read_latents(file)
    if facts["model"]["step"] != editor.model.step:
        theirs = facts["model"]
        raise ValueError(
            f"{file} is of {theirs['path']}, step {theirs['step']:,}, and {editor.model.path} is of step "
            f"{editor.model.step:,}: give the model that it was made with, --ckpt"
        )
    x = outside + _in_file(editor.placed(facts["start"]).decode(u)[0], facts, editor)
    return Made([None], [Sound("000 decode", x, facts["rate"])])


def _in_file(window: Tensor, facts: dict[str, Any], editor: Editor) -> Tensor:
    """A window at the file's rate, level, place and length, (samples,); zeros around it."""
    return placed(window / facts["gain"], facts["start"], facts["samples"], editor.model.rate, facts["rate"])


def _prepared(editor: Editor, file: str) -> Prepared:
    return prepare(file, editor.model.length, editor.model.rate, paired=editor.model.hears)


def _window(editor: Editor) -> float:
    """Seconds of the model's window."""
    return editor.model.length / editor.model.rate


def _regions(text: str, sound: Prepared) -> Regions:
    try:
        return parse_regions(text, sound.seconds)
    except ValueError as error:
        raise ValueError(f"--mask {error}") from error


def _before(sound: Prepared) -> Sound:
    return Sound("before", sound.original, sound.rate)


def _beyond(editor: Editor, sound: Prepared) -> str:
    """What is told of a part that goes on where the model's window ends."""
    if not editor.model.hears or sound.seconds <= _window(editor) + 0.001:
        return ""
    return f"only the first {_window(editor):.3f} s, a window of the model, were changed; the rest stays as it is"


def _rows(name: str, sound: Prepared, results: list[Tensor], remark: str = "") -> Made:
    before, rate = _before(sound), sound.rate
    after = [Sound(f"{i:03d} {name}", x, rate) for i, x in enumerate(results)]
    return Made([before] * len(results), after, remark)
