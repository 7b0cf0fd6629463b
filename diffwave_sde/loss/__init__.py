r"""Losses: a sampler of times and a weight on the denoiser's squared error.

    loss = w(t) · mean over (C, T) of |D(u_t, t) - x|²,    u_t ~ p(u_t | x),    t drawn from p(t)

Every objective of the literature that is a regression is such a pair. A time sampler is a quantile function, from
[0, 1) to times; so each one can be stratified, put on a fixed grid, or shared out among processes in the same way.
"""

from diffwave_sde.loss.classification import CrossEntropy
from diffwave_sde.loss.objectives import HybridLoss, ImplicitLoss, Loss, NoisedLoss, NoiseDraw, Objective
from diffwave_sde.loss.times import DiscreteTime, ImportanceTime, LogNormalSigma, TimeSampler, UniformTime
from diffwave_sde.loss.weights import (
    DataWeight,
    EpsilonWeight,
    ExtendedWeight,
    KarrasWeight,
    LikelihoodWeight,
    MinSNRWeight,
    P2Weight,
    ScoreWeight,
    VWeight,
    Weight,
    WeightInputs,
)

__all__ = [
    "CrossEntropy",
    "DataWeight",
    "DiscreteTime",
    "EpsilonWeight",
    "ExtendedWeight",
    "HybridLoss",
    "ImplicitLoss",
    "ImportanceTime",
    "KarrasWeight",
    "LikelihoodWeight",
    "LogNormalSigma",
    "Loss",
    "MinSNRWeight",
    "NoiseDraw",
    "NoisedLoss",
    "Objective",
    "P2Weight",
    "ScoreWeight",
    "TimeSampler",
    "UniformTime",
    "VWeight",
    "Weight",
    "WeightInputs",
]
