"""New sounds of a model in a folder: WAV files, pictures, a page to hear them by, and the record of how they were made.

In Python::

    model = checkpoint.load("drums")
    labels = ask(model, 8, "kick,snare,kick:0.7+snare:0.3")
    folder, filled = make_sounds(model, "sounds", labels, seed=1)
    add_neighbours(folder, Index.of_dataset("/my/kicks"), range(8))  # metrics.neighbours
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffwave_sde import audio, names, parts
from diffwave_sde.cascade import CascadeModel
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.clipping import CLIPS
from diffwave_sde.drafts import Draft
from diffwave_sde.looping import Looped
from diffwave_sde.model import Mixes
from diffwave_sde.networks import BFloat16Network
from diffwave_sde.samplers import Sampler
from diffwave_sde.sounds.folder import Filled, Progress, SoundFolder
from diffwave_sde.track import Track

if TYPE_CHECKING:  # of Lightning's kin, which who only listens does not wait for
    from diffwave_sde.metrics.neighbours import Index, Neighbour


TRIES = 8
"""How often a sound that is not wanted is made anew at most."""

_STRIDE = 10**9  # between the number of a sound's noise and that of its next attempt


@dataclass(frozen=True)
class Labels:
    """What each sound is asked to be.

    ids: class of each, (n,), long; -1 for none; K + j, where the model has K classes, for mixes[j].
    names: of each, as a person reads them.
    mixes: class mixes, shares by class.
    """

    ids: Tensor
    names: Sequence[str]
    mixes: Mixes = ()


def ask(model: LoadedModel, n: int, text: str | None = None) -> Labels:
    """What n sounds are asked to be, in turn.

    Args:
        model: whose classes they are.
        n: how many.
        text: classes and mixes of them, a,b:0.7+c:0.3,..., as a person types them (`names`); all classes that the
            model knows by default, and its classifier if it has one. The shares of a mix without numbers are equal.
            Where the model knows no classes they are those of its classifier.

    Raises:
        ValueError: if the model does not know one of them, or a share is no number.
    """
    guide = model.module.classifier
    known, unknown = list(model.labels), set()
    if not model.module.denoiser.net.classes:
        if guide is None and text is not None:
            raise ValueError(f"{text}: {model.path} was trained without classes; leave the class out")
        if guide is None:
            return Labels(torch.full((n,), -1), ["sound"] * n)
        known = list(guide.labels)
    elif guide is not None:
        unknown = set(known) - set(guide.labels)
    ids, shown, mixes = [], [], []
    every = [{k: 1.0} for k, name in enumerate(known) if name not in unknown]
    for mix in every if text is None else names.pick(text, known):
        if strange := [known[k] for k in mix if known[k] in unknown]:
            raise ValueError(f"{strange[0]}: the classifier knows {names.listed(guide.labels)} alone")
        if list(mix.values()) == [1.0]:
            ids.append(next(iter(mix)))
            shown.append(known[ids[-1]])
        else:
            ids.append(len(known) + len(mixes))
            mixes.append(mix)
            shown.append("+".join(f"{known[k]}:{share:g}" for k, share in mix.items()))
    return Labels(torch.tensor((ids * n)[:n]), (shown * n)[:n], tuple(mixes))


def use_bfloat16(model: LoadedModel) -> None:
    """Let the products of the model's networks be of bfloat16 numbers from now on."""
    for denoiser in model.module.denoisers:
        denoiser.net = BFloat16Network(denoiser.net)


def make_sounds(
    model: LoadedModel,
    out: str | Path,
    label: Labels,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
    length: int | None = None,
    clip: str = "none",
    batch_size: int = 16,
    cuda_graphs: bool = False,
    subtype: str = "FLOAT",
    record: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    refused: Callable[[Tensor], Sequence[bool]] | None = None,
    track: Track | None = None,
    loop: bool = False,
    draft: Draft | None = None,
    contexts: Tensor | None = None,
) -> tuple[SoundFolder, Filled]:
    """Make the sounds that a folder lacks; sound number i of a seed is the same however many are made, and with what.

    Args:
        model: with the guidance that it is to have.
        out: the folder.
        label: what each sound is asked to be, as of `ask`.
        sampler: the model's own by default.
        seed: of the noise.
        length: samples; those of the training by default.
        clip: none, or what each step's estimate is clipped by: static, dynamic.
        batch_size: sounds made at a time.
        cuda_graphs: whether the first batch is captured as CUDA graphs and replayed for the others.
        subtype: of the WAV files: FLOAT, 32 bits, cuts nothing; PCM_24 and PCM_16 clip at full scale.
        record: what else the sounds follow from. A folder keeps only sounds of the same record.
        progress: called with (sounds made, sounds in all).
        refused: which of some sounds (n, T) are not wanted: they are made anew from other noise, `TRIES` times at most.
            What comes out follows the model's law under the condition that it is wanted: rejection sampling.
        track: what the sounds are to go with, at the model's rate; they are as long as it is.
        loop: whether the last sample of each is to meet its first (`looping.Looped`).
        draft: a quicker model's sounds, which these begin with in place of noise.
        contexts: what each sound is to go with, one window each, (n, T), at the model's rate; in place of a track.

    Raises:
        ValueError: if the sampler cannot take the model's process, there is no GPU to capture on, or the model was
            trained without contexts and there is a track.
        OSError: if the folder cannot be written.
    """
    module = model.module
    if track is not None:
        model.check_hears(track.name)
        if cuda_graphs:
            raise ValueError("a track's last batch of windows is smaller, and graphs have one size: no cuda_graphs")
        length, record = track.length, {**(record or {}), **track.record}
    if contexts is not None:
        model.check_hears("contexts")
        if cuda_graphs:
            raise ValueError("graphs are captured without a context: no cuda_graphs with contexts")
        length = contexts.shape[1]
        record = {**(record or {}), "audio_digest": names.digest(contexts.numpy().tobytes())}
    if loop:
        others = {
            "a context": track is not None or contexts is not None,
            "cuda_graphs": cuda_graphs,
            "a cascade": isinstance(module, CascadeModel),
        }
        if other := next((name for name, there in others.items() if there), None):
            raise ValueError(f"a loop with {other} does not work yet: leave one of them out")
        record = {**(record or {}), "loop": True}
    sampler = (sampler or module.sampler).resolve(module.denoiser.sde)
    if draft is not None:
        if track is not None or contexts is not None or cuda_graphs:
            raise ValueError("a draft with a context or cuda_graphs does not work yet: leave one of them out")
        draft.check(model, sampler)
        record = {**(record or {}), **draft.record}
    guidance = str(module.guided() or "none")
    facts = {
        "checkpoint": str(model.path),
        "written": model.path.stat().st_mtime,
        "step": model.step,
        "sampler": type(sampler).__name__,
        "steps": sampler.steps,
        "guidance": guidance,
        "clip": clip,
        "seed": seed,
        "length": length or model.length,
        "subtype": subtype,
        **(record or {}),
    }
    note = (
        f"{model.path}, step {model.step:,}: {type(sampler).__name__}, {{nfe}} network calls a sound, guidance "
        f"{guidance}, seed {seed}; at the level that the model made."
    )
    folder = SoundFolder(Path(out), facts, note, subtype)
    wrap = CLIPS.get(clip)
    if loop:
        wrap = Looped if wrap is None else parts.nested(Looped, wrap)
    sample = partial(module.sample, sampler=sampler, wrap=wrap, mixes=label.mixes)
    if draft is not None:
        sample = partial(draft.sample, model, sampler, wrap, label.mixes)
    captured = module.capture(sampler, wrap, mixes=label.mixes) if cuda_graphs else None

    def make(numbers: list[int], report: Progress, attempt: int = 0) -> Tensor:
        # A graph makes as many as it was captured for.
        padded = numbers if captured is None else (numbers * batch_size)[:batch_size]
        noises = [number + attempt * _STRIDE for number in padded]
        if track is not None:
            return parts.make(
                model, noises, label.ids[numbers], track, sampler=sampler, wrap=wrap, mixes=label.mixes, seed=seed,
                batch_size=batch_size, progress=report,
            )  # fmt: skip
        made_by = captured or sample
        if contexts is not None:
            made_by = partial(sample, audio=audio.compress(contexts[numbers], model.mu)[:, None])
        sounds = _waveforms(model, made_by, noises, label.ids[padded], facts["length"], seed, report)
        return sounds[: len(numbers)]

    def draw(numbers: list[int], report: Progress) -> tuple[Tensor, int]:
        sounds = make(numbers, report)
        for attempt in range(1, TRIES + 1 if refused is not None else 1):
            again = [i for i, no in enumerate(refused(sounds)) if no]
            if not again:
                break
            new = iter(make([numbers[i] for i in again], report, attempt))
            sounds = torch.stack([next(new) if i in again else sound for i, sound in enumerate(sounds)])
        return sounds, sampler.nfe

    filled = folder.fill(label.names, draw, model.rate, batch_size, progress)
    if track is not None:
        folder.add_context(range(len(label.names)), track.waveform, model.rate)
    if contexts is not None:
        folder.add_context(range(len(label.names)), contexts, model.rate)
    return folder, filled


def add_neighbours(folder: SoundFolder, index: Index, numbers: Sequence[int]) -> list[Neighbour]:
    """Find which training clip each of a folder's sounds is nearest to, and tell it in the folder.

    Args:
        folder: that holds the sounds.
        index: of the training clips.
        numbers: of the sounds.
    """
    found: list[Neighbour] = []
    for first in range(0, len(numbers), 256):  # at once: each is half a second
        some = numbers[first : first + 256]
        sounds = [audio.read(folder.path / folder.sounds[i]["file"])[0] for i in some]
        longest = max(map(len, sounds))
        near = index.find(torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x in sounds]))
        records = [{**one.record, "told": str(one)} for one in near]
        folder.add_neighbours(some, records, index.clips([one.row for one in near]), audio.RATE, index.about)
        found += near
    return found


@torch.inference_mode()
def _waveforms(
    model: LoadedModel,
    sample: Callable[..., Tensor],
    numbers: list[int],
    label: Tensor,
    length: int,
    seed: int,
    progress: Progress,
) -> Tensor:
    """The sounds of these numbers, (n, length), in [-1, 1] or a little beyond."""
    x = sample(length, label, model.module.generators(numbers, seed), progress=progress)
    return audio.expand(x[:, 0], model.mu).cpu()
