import math

import numpy as np
import torch

from diffwave_sde import audio


def noise(samples: int, level: float, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, level, samples).astype(np.float32))


def hit(samples: int = 15_000, hz: float = 180.0, decay: float = 0.05) -> torch.Tensor:
    """A decaying cosine: at its first sample it is at its peak."""
    t = torch.arange(samples) / audio.RATE
    return 0.8 * torch.exp(-t / decay) * torch.cos(2 * math.pi * hz * t)
