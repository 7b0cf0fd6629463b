"""Cascades: a sound in stages of rising rate, each a diffusion that is told what the one before has made."""

from diffwave_sde.cascade.bands import dct, handed, idct, join, resize, split
from diffwave_sde.cascade.handover import Handover
from diffwave_sde.cascade.model import NAMES, CascadeModel
from diffwave_sde.cascade.sampling import sample_stages, stopped
from diffwave_sde.cascade.stage import StageDenoiser

__all__ = [
    "NAMES",
    "CascadeModel",
    "Handover",
    "StageDenoiser",
    "dct",
    "handed",
    "idct",
    "join",
    "resize",
    "sample_stages",
    "split",
    "stopped",
]
