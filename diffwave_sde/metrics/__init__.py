"""Distances between sets of sounds, and what each set measures."""

from diffwave_sde.metrics.distances import Manifold, frechet, kernel, manifold, shrunk
from diffwave_sde.metrics.embeddings import Embedding, LogMel, aligned
from diffwave_sde.metrics.evaluation import Figure, SoundSet, evaluate
from diffwave_sde.metrics.learnt import Learnt
from diffwave_sde.metrics.measurements import MEASUREMENTS, Measurement, difference, measure

EMBEDDINGS: dict[str, type[Embedding]] = {"log-mel": LogMel, "learnt": Learnt}
"""By the name that an option gives."""

__all__ = [
    "EMBEDDINGS",
    "MEASUREMENTS",
    "Embedding",
    "Figure",
    "Learnt",
    "LogMel",
    "Manifold",
    "Measurement",
    "SoundSet",
    "aligned",
    "difference",
    "evaluate",
    "frechet",
    "kernel",
    "manifold",
    "measure",
    "shrunk",
]
