"""A model of one's own from a few sounds: training that starts from a model that is there."""

from diffwave_sde.finetuning.classes import Sources, match
from diffwave_sde.finetuning.start import Start, told

__all__ = ["Sources", "Start", "match", "told"]
