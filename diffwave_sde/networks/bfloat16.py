"""A network that multiplies in bfloat16, for listening."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.networks.blocks import Conv
from diffwave_sde.networks.unet import Network


class BFloat16Network(nn.Module):
    """A network whose products are of bfloat16 numbers, its transforms and everything around it of float32.

    Autocast alone would convert every weight at every call, which for one sound takes as long as the products. What
    EDM's preconditioning adds to u is of the size of the noise, and so are the errors.

    Args:
        net: the network; its convolutions and linear layers are converted, for good.
    """

    def __init__(self, net: Network):
        super().__init__()
        self.net, self.inputs, self.classes, self.outputs = net, net.inputs, net.classes, net.outputs
        self.context, self.guidance = net.context, net.guidance
        for layer in net.modules():
            if isinstance(layer, (nn.Conv1d, nn.Linear)):
                layer.to(torch.bfloat16)
            if isinstance(layer, Conv):
                device = layer.weight.device
                layer.prepacked = (
                    device.type == "cpu" and torch.backends.mkldnn.is_available() and bfloat16_is_fast(device)
                )

    def forward(self, u: Tensor, noise: Tensor, condition: object | None = None) -> Tensor:
        with torch.autocast(u.device.type, torch.bfloat16):
            return self.net(u, noise, condition)
