"""New sounds of a model in a folder: WAV files, pictures, a page to hear them by, and the record of how they were made.

In Python::

    model = checkpoint.load("drums")
    labels = class_ids(model, 8, "kick,snare")
    folder, filled = make_sounds(model, "sounds", labels, seed=1)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.clipping import CLIPS
from diffwave_sde.names import pick
from diffwave_sde.networks import BFloat16Network
from diffwave_sde.samplers import Sampler
from diffwave_sde.sounds.folder import Filled, Progress, SoundFolder


def class_ids(model: LoadedModel, n: int, names: str | None = None) -> Tensor:
    """Classes (n,), long, in turn; -1 where the model knows none.

    Args:
        model: whose classes they are.
        n: how many.
        names: classes, a,b,..., as a person types them (`names`); all that the model knows by default.

    Raises:
        ValueError: if the model does not know one of them.
    """
    known = list(model.labels)
    if not model.module.denoiser.net.classes:
        if names is not None:
            raise ValueError(f"{names}: {model.path} was trained without classes; leave the class out")
        return torch.full((n,), -1)
    ids = torch.tensor([known.index(name) for name in (known if names is None else pick(names, known))])
    return ids.repeat(-(-n // len(ids)))[:n]


def use_bfloat16(model: LoadedModel) -> None:
    """Let the products of the model's networks be of bfloat16 numbers from now on."""
    for denoiser in (model.module.denoiser, model.module.denoiser.weak):
        if denoiser is not None:
            denoiser.net = BFloat16Network(denoiser.net)


def make_sounds(
    model: LoadedModel,
    out: str | Path,
    label: Tensor,
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
) -> tuple[SoundFolder, Filled]:
    """Make the sounds that a folder lacks; sound number i of a seed is the same however many are made, and with what.

    Args:
        model: with the guidance that it is to have.
        out: the folder.
        label: the class of each sound, (n,), long; -1 for none.
        sampler: the model's own by default.
        seed: of the noise.
        length: samples; those of the training by default.
        clip: none, or what each step's estimate is clipped by: static, dynamic.
        batch_size: sounds made at a time.
        cuda_graphs: whether the first batch is captured as CUDA graphs and replayed for the others.
        subtype: of the WAV files: FLOAT, 32 bits, cuts nothing; PCM_24 and PCM_16 clip at full scale.
        record: what else the sounds follow from. A folder keeps only sounds of the same record.
        progress: called with (sounds made, sounds in all).

    Raises:
        ValueError: if the sampler cannot take the model's process, or there is no GPU to capture on.
        OSError: if the folder cannot be written.
    """
    module = model.module
    sampler = (sampler or module.sampler).resolve(module.denoiser.sde)
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
    sample = partial(module.sample, sampler=sampler, wrap=wrap)
    captured = module.capture(sampler, wrap) if cuda_graphs else None

    def draw(numbers: list[int], report: Progress) -> tuple[Tensor, int]:
        if captured is None:
            sounds = _waveforms(model, sample, numbers, label[numbers], facts["length"], seed, report)
        else:  # which makes as many as it was captured for
            padded = (numbers * batch_size)[:batch_size]
            sounds = _waveforms(model, captured, padded, label[padded], facts["length"], seed, report)[: len(numbers)]
        return sounds, sampler.nfe

    names = [model.labels[i] if i >= 0 else "sound" for i in label.tolist()]
    return folder, folder.fill(names, draw, model.rate, batch_size, progress)


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
