"""A given sound, changed: what is kept is told to the denoiser, and samplers do the rest.

preparation     a file as the model sees it, and the way back
operations      inpaint, vary, interpolate, encode, decode, extend, repair
projection      D made to agree with what is known
posterior       D given an observation, exactly where it can be
latents         states of the probability flow, there and back
restoration     what a damaged sound says of itself, and what that asks of D
stages          all of it with a cascade
coded           what can be done of it with a model of latents
files           all of it on files, given back at their own rate and length
"""

from diffwave_sde.editing.coded import LatentEditor, make_editor
from diffwave_sde.editing.operations import Editor
from diffwave_sde.editing.posterior import GradientPosterior, Likelihood, LinearGaussian, LinearPosterior
from diffwave_sde.editing.preparation import Prepared, prepare
from diffwave_sde.editing.projection import KnownSamples, Projected
from diffwave_sde.editing.stages import CascadeEditor

__all__ = [
    "CascadeEditor",
    "Editor",
    "GradientPosterior",
    "KnownSamples",
    "LatentEditor",
    "Likelihood",
    "LinearGaussian",
    "LinearPosterior",
    "Prepared",
    "Projected",
    "make_editor",
    "prepare",
]
