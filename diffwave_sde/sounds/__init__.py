"""Sounds that were made: the folders that hold them, the pages to hear them by, and their pictures."""

from diffwave_sde.sounds.folder import Progress, SoundFolder

__all__ = ["Progress", "SoundFolder"]
