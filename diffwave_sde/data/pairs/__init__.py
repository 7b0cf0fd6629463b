"""Pairs of sounds that go together: a context, such as a mix without its bass, and the part that belongs to it."""

from diffwave_sde.data.pairs.bass import COLLECTION, VOICES, Note, Score, render, score
from diffwave_sde.data.pairs.sources import RATE, built, find_stems, stems

__all__ = ["COLLECTION", "RATE", "VOICES", "Note", "Score", "built", "find_stems", "render", "score", "stems"]
