r"""Forward processes: linear SDEs on a state u of S blocks, each of the waveform's own shape.

    du = F(t) u dt + g(t) dW,    t in [0, 1],    noise enters the last block,    u[:, 0] is the waveform

A process is fixed by its transition, u_t | u_s ~ N(Φ u_s, Q), and by u_0 | x ~ N(mean0 x, cov0). The rest follows:

    p(u_t | x) = N(M x, L Lᵀ),   M = Φ mean0,   L Lᵀ = Φ cov0 Φᵀ + Q

mean0 is e₁, the waveform itself, but for processes that begin a little faded. Scalar processes (S = 1) give m(t) and
σ(t); F = d log m / dt and g² = dσ²/dt - 2 F σ² are derived.
All of it is computed in float64 and cast once, where it meets the waveform.
"""

from diffwave_sde.sde.discrete import DDPM, NCSN
from diffwave_sde.sde.kernel import Kernel, apply, broadcast_like, cholesky, dot, embed_waveform, float64, triangular
from diffwave_sde.sde.langevin import CLD
from diffwave_sde.sde.learned import VDM
from diffwave_sde.sde.process import SDE, MeanSigma, ScalarSDE
from diffwave_sde.sde.ve import EDM, VE, PowerVE
from diffwave_sde.sde.vp import VP, CosineVP, CrashSubVP, CrashVP, GeneralSubVP, SigmoidVP, SubVP

__all__ = [
    "CLD",
    "DDPM",
    "EDM",
    "NCSN",
    "SDE",
    "VDM",
    "VE",
    "VP",
    "CosineVP",
    "CrashSubVP",
    "CrashVP",
    "GeneralSubVP",
    "Kernel",
    "MeanSigma",
    "PowerVE",
    "ScalarSDE",
    "SigmoidVP",
    "SubVP",
    "apply",
    "broadcast_like",
    "cholesky",
    "dot",
    "embed_waveform",
    "float64",
    "triangular",
]
