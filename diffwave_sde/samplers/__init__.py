"""Samplers: from a state at t_max to a sound, in as few network calls as possible."""

from diffwave_sde.samplers.base import Sampler
from diffwave_sde.samplers.grids import DiscreteGrid, Grid, KarrasGrid, LogSNRGrid, TimesGrid, UniformGrid
from diffwave_sde.samplers.ode import DDIM, Heun
from diffwave_sde.samplers.sde import EulerMaruyama

__all__ = [
    "DDIM",
    "DiscreteGrid",
    "EulerMaruyama",
    "Grid",
    "Heun",
    "KarrasGrid",
    "LogSNRGrid",
    "Sampler",
    "TimesGrid",
    "UniformGrid",
]
