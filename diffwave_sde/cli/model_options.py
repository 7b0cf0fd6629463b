"""The options of every verb that makes sounds with a model: which model, where, and how it samples."""

from __future__ import annotations

import sys
from typing import Literal

import torch
from jsonargparse import ArgumentParser, Namespace

from diffwave_sde import checkpoint, generate, samplers
from diffwave_sde.cli import cores, guidance_options, runs

Device = Literal["auto", "cpu", "cuda", "mps"]

SUBTYPE = (
    "numbers of the WAV files: 32-bit floats, which cut nothing, or integers of 24 or 16 bits, which clip at full scale"
)


def add(p: ArgumentParser) -> None:
    """Give a parser the options."""
    p.add_argument("--ckpt", type=str | None, help=runs.CKPT)
    p.add_subclass_arguments(
        samplers.Sampler, "sampler", required=False, help="sampler (default: the one the model was trained with)"
    )
    guidance_options.add(p)
    guidance_options.add_classifier(p)
    p.add_argument(
        "--clip",
        type=Literal["none", "static", "dynamic"],
        default="none",
        help="keep each step's estimate of the sound within full scale: by clipping, or by Imagen's dynamic threshold",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="seed; sound number i of a seed is the same however many are made"
    )
    add_output(p)
    p.add_argument(
        "--weights", type=Literal["averaged", "raw"], default="averaged", help="averaged (EMA) or raw weights"
    )
    p.add_argument(
        "--precision",
        type=Literal["32", "bf16"],
        default="32",
        help="bf16: products of bfloat16 numbers, faster on newer GPUs and on CPUs with AMX or AVX512_BF16; the sounds "
        "of a seed are nearly the same",
    )


def add_output(p: ArgumentParser) -> None:
    """Those of what is written, and where it is computed."""
    p.add_argument(
        "--batch_size", type=int, default=16, help="sounds made at a time; changes the speed, not the sounds"
    )
    p.add_argument("--subtype", type=Literal["FLOAT", "PCM_24", "PCM_16"], default="FLOAT", help=SUBTYPE)
    p.add_argument("--device", type=Device, default="auto", help="where to compute; auto is a CUDA GPU if there is one")


def load(config: Namespace, purpose: str, cascade: bool = False, latent: bool = False) -> checkpoint.LoadedModel:
    """The model that the options ask for, with the guidance that it is to have.

    Args:
        purpose: what it is wanted for, for a complaint.
        cascade: whether a cascade will do.
        latent: whether a model of latents will do.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if options contradict one another.
    """
    if config.batch_size < 1:
        raise ValueError(f"--batch_size {config.batch_size}: must be at least 1")
    ckpt = runs.given_or_newest(config.ckpt, purpose)
    where = device(config.device)
    model = checkpoint.load(
        ckpt, config.weights, where, weak=config.weak, classifier=config.classifier, cascade=cascade, latent=latent
    )
    model.module.guidance = guidance_options.resolve_guidance(model, config)
    _check_steps(model, config.get("sampler"))
    if config.precision == "bf16":
        generate.use_bfloat16(model)
    return model


def _check_steps(model: checkpoint.LoadedModel, sampler: Namespace | None) -> None:
    """Warn of another number of steps than a student learned."""
    asked = (sampler.get("init_args") or {}).get("steps") if sampler else None
    if model.taught and asked not in (None, model.taught):
        print(
            f"warning: --sampler.steps {asked}: {model.path} learned {model.taught} steps, and no others: leave "
            "--sampler out",
            file=sys.stderr,
        )


def labels(model: checkpoint.LoadedModel, n: int, text: str | None) -> generate.Labels:
    """What `--label` asks n sounds to be."""
    try:
        return generate.ask(model, n, text)
    except ValueError as error:
        raise ValueError(f"--label {error}") from error


def device(name: str) -> str:
    """The torch device that `--device` means; on the CPU with as many threads as cores are free."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA GPU here; leave --device out")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: no such device here; leave --device out")
    if name == "cpu":
        cores.limit_threads()
    return name
