"""How probable a model finds a sound: the density of its flow, the bound of its chain, and a proxy that ranks alike.

All give log p in nats; `levels` turns it into bits per sample of 16-bit sound.
"""

from diffwave_sde.likelihood.bits import bits_per_sample
from diffwave_sde.likelihood.bound import Bound
from diffwave_sde.likelihood.dequantisation import Dequantisation
from diffwave_sde.likelihood.estimate import Estimate, Estimator, Progress
from diffwave_sde.likelihood.flow import Flow
from diffwave_sde.likelihood.levels import Levels
from diffwave_sde.likelihood.proxy import Proxy

METHODS = {"flow": Flow, "bound": Bound, "proxy": Proxy}

__all__ = [
    "METHODS",
    "Bound",
    "Dequantisation",
    "Estimate",
    "Estimator",
    "Flow",
    "Levels",
    "Progress",
    "Proxy",
    "bits_per_sample",
]
