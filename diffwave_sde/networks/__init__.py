"""Networks: net(u (B, inputs, T), noise (B,), condition) -> (B, outputs, T), for any length T."""

from diffwave_sde.networks.fronts import MDCT, Front, Waveform
from diffwave_sde.networks.half import Half
from diffwave_sde.networks.unet import Network, UNet

__all__ = ["MDCT", "Front", "Half", "Network", "UNet", "Waveform"]
