"""Small networks and what they are asked, for the tests of networks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffwave_sde.networks import UNet

SMALL = {"channels": (8, 12, 16), "factors": (2, 5), "embedding": 16, "position": 4, "heads": 2}

# One layout for each option that is off by default, and the papers' mixtures of them.
LAYOUTS = {
    "default": {},
    "fir": {"resample": "fir"},
    "biggan": {"transition": "biggan"},
    "rescale": {"rescale": True, "bottleneck": "both"},
    "progressive": {"progressive": True},
    "deeper": {"blocks": [1, 2, 3]},
    "harmonics": {"harmonics": (7, 8)},
    "add": {"skips": "add"},
    "multiresolution": {"multiresolution": True},
    "lowest": {"multiresolution": True, "lowest": 3},
    "frame": {"norm": "frame"},
    "variance": {"variance": True},
    "variance-ungated": {"variance": True, "gate": False},
    "ncsnpp": {"resample": "fir", "transition": "biggan", "rescale": True, "progressive": True, "skips": "add"},
}


@dataclass
class Asked:
    label: Tensor | None = None


def small(seed=0, **options) -> UNet:
    """A small network all of whose layers are at work: those that start at zero are given weights."""
    torch.manual_seed(seed)
    net = UNet(**(SMALL | options))
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def noise_of(sigma: float, batch: int = 1, sigma_data: float = 0.5) -> Tensor:
    """What a denoiser tells a network: ¼ log(σ/σ_data)."""
    return torch.full((batch,), math.log(sigma / sigma_data) / 4)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shifted(net, shift):
    """The largest difference between the response to a shifted burst and the shifted response."""
    x = torch.zeros(1, 1, 2400, dtype=torch.float64)
    x[..., 1000:1040] = randn(40)
    net = net.double()
    with torch.no_grad():
        y, z = (net(torch.roll(x, s, -1), torch.zeros(1).double())[0, 0] for s in (0, shift))
    inner = slice(400, -400)
    return float((torch.roll(y, shift)[inner] - z[inner]).abs().max() / y.abs().max())
