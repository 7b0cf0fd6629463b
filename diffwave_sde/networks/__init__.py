"""Networks: net(u (B, inputs, T), noise (B,), condition) -> (B, outputs, T), for any length T.

An `Encoder` answers with a few numbers in place of a waveform: (B, outputs).
"""

from diffwave_sde.networks.bfloat16 import BFloat16Network
from diffwave_sde.networks.encoder import Encoder
from diffwave_sde.networks.fronts import MDCT, Fold, Front, Waveform
from diffwave_sde.networks.unet import Network, UNet

__all__ = ["MDCT", "BFloat16Network", "Encoder", "Fold", "Front", "Network", "UNet", "Waveform"]
