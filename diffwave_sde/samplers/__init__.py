"""Samplers: from a state at t_max to a sound, in as few network calls as possible."""

from diffwave_sde.samplers.adaptive import GottaGoFast, ProbabilityFlow
from diffwave_sde.samplers.ancestral import Ancestral
from diffwave_sde.samplers.base import GridSampler, Sampler
from diffwave_sde.samplers.capture import CapturedSampler
from diffwave_sde.samplers.consistency import ConsistencySampler
from diffwave_sde.samplers.default import DefaultSampler
from diffwave_sde.samplers.exponential import DPMSolver2M, DPMSolver2S, DPMSolver3M, DPMSolverSDE
from diffwave_sde.samplers.grids import (
    CosineGrid,
    CrashGrid,
    DiscreteGrid,
    Grid,
    JumpGrid,
    KarrasGrid,
    LearnedGrid,
    LogNormalGrid,
    LogSNRGrid,
    QuadraticGrid,
    TimesGrid,
    UniformGrid,
)
from diffwave_sde.samplers.langevin import AnnealedLangevin, PredictorCorrector
from diffwave_sde.samplers.ode import DDIM, Heun
from diffwave_sde.samplers.repeated import LangevinCorrector, RePaint
from diffwave_sde.samplers.sde import EulerMaruyama, MaximumLikelihood, ReverseDiffusion
from diffwave_sde.samplers.splitting import SSCS

__all__ = [
    "DDIM",
    "SSCS",
    "Ancestral",
    "AnnealedLangevin",
    "CapturedSampler",
    "ConsistencySampler",
    "CosineGrid",
    "CrashGrid",
    "DPMSolver2M",
    "DPMSolver2S",
    "DPMSolver3M",
    "DPMSolverSDE",
    "DefaultSampler",
    "DiscreteGrid",
    "EulerMaruyama",
    "GottaGoFast",
    "Grid",
    "GridSampler",
    "Heun",
    "JumpGrid",
    "KarrasGrid",
    "LangevinCorrector",
    "LearnedGrid",
    "LogNormalGrid",
    "LogSNRGrid",
    "MaximumLikelihood",
    "PredictorCorrector",
    "ProbabilityFlow",
    "QuadraticGrid",
    "RePaint",
    "ReverseDiffusion",
    "Sampler",
    "TimesGrid",
    "UniformGrid",
]
