"""Guidance: wrappers, denoiser to denoiser, and how far each acts. No sampler knows about them."""

from diffwave_sde.guidance.away import (
    AutoGuidance,
    ClassifierFree,
    ClassMix,
    ContextFree,
    GuidanceInput,
    GuidedDenoiser,
)
from diffwave_sde.guidance.options import Guidance
from diffwave_sde.guidance.towards import ClassifierGuidance

__all__ = [
    "AutoGuidance",
    "ClassMix",
    "ClassifierFree",
    "ClassifierGuidance",
    "ContextFree",
    "Guidance",
    "GuidanceInput",
    "GuidedDenoiser",
]
