"""The operations of `diffwave-sde edit`: the options of each, and what they ask an editor for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from diffwave_sde.editing import Editor, files, restoration
from diffwave_sde.editing.files import Made
from diffwave_sde.editing.operations import METHODS


@dataclass(frozen=True)
class Operation:
    """One thing to do to a sound.

    help: a line.
    files: names of its positional arguments.
    options: gives a parser its own options.
    make: (config, editor) -> what was made; None of `encode`, which makes no sounds.
    """

    help: str
    files: tuple[str, ...]
    options: Callable[[ArgumentParser], None]
    make: Callable[[Namespace, Editor], Made] | None


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


def _vary_options(p: ArgumentParser) -> None:
    p.add_argument(
        "--strength",
        type=float,
        default=0.5,
        help="how far from the file, 0 to 1: share of noise that is gone back from; 0 is the file, 1 a new sound",
    )
    p.add_argument(
        "--keep",
        type=Literal[files.KEEP],  # type: ignore[valid-type]
        default="none",
        help=f"part that stays as it is: the first {files.ATTACK * 1000:g} ms from the onset, or all after them",
    )
    p.add_argument(
        "--resample", type=int, default=1, help="how often each step is taken, where a part is kept (RePaint)"
    )
    _count(p, 8)


def _interpolate_options(p: ArgumentParser) -> None:
    p.add_argument("--steps", type=int, default=7, help="number of sounds, both ends included")
    p.add_argument(
        "--space",
        type=Literal["latent", "noise"],
        default="latent",
        help="latent: between the latents of the probability flow; noise: at a noise level, which keeps more of both",
    )
    p.add_argument("--strength", type=float, default=0.5, help="that noise level, 0 to 1, as of `edit vary`")


def _extend_options(p: ArgumentParser) -> None:
    p.add_argument("--seconds", type=float, default=2.0, help="duration of the results, seconds")
    _known(p)
    _count(p)


def _restore_options(p: ArgumentParser) -> None:
    p.add_argument("--task", type=Literal[restoration.TASKS] | None, help="what is to be repaired")  # type: ignore[valid-type]
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


def _encode_options(p: ArgumentParser) -> None:
    p.add_argument("--out", type=str | None, help="file of the latents (default: FILE.latents.safetensors, here)")


def _decode_options(p: ArgumentParser) -> None:
    del p  # it has none of its own


OPERATIONS = {
    "inpaint": Operation(
        "make parts of a sound anew",
        ("file",),
        _inpaint_options,
        lambda c, editor: files.inpaint(editor, c.file, c.mask, c.n, c.method),
    ),
    "vary": Operation(
        "make variations of a sound",
        ("file",),
        _vary_options,
        lambda c, editor: files.vary(editor, c.file, c.strength, c.keep, c.n),
    ),
    "interpolate": Operation(
        "go from one sound to another",
        ("first", "second"),
        _interpolate_options,
        lambda c, editor: files.interpolate(editor, c.first, c.second, c.steps, c.space, c.strength),
    ),
    "encode": Operation("write a sound's latents", ("file",), _encode_options, None),
    "decode": Operation(
        "make the sound of latents", ("file",), _decode_options, lambda c, editor: files.decode(editor, c.file)
    ),
    "extend": Operation(
        "make a sound longer",
        ("file",),
        _extend_options,
        lambda c, editor: files.extend(editor, c.file, c.seconds, c.n, c.method),
    ),
    "restore": Operation(
        "repair a sound",
        ("file",),
        _restore_options,
        lambda c, editor: files.restore(
            editor, c.file, c.task, c.likelihood, c.level, c.cutoff, c.noise, c.mask, c.method, c.n
        ),
    ),
}
"""By the name that a person types."""
