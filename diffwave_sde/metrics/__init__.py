"""Distances between sets of sounds, and what each set measures."""

from diffwave_sde.metrics.distances import Manifold, frechet, kernel, manifold, shrunk
from diffwave_sde.metrics.embeddings import Embedding, LogMel, aligned

__all__ = ["Embedding", "LogMel", "Manifold", "aligned", "frechet", "kernel", "manifold", "shrunk"]
