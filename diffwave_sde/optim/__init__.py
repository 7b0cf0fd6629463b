"""How weights are moved: an optimizer, and the learning rate over a training."""

from diffwave_sde.optim.muon import MuonAdamW, newton_schulz
from diffwave_sde.optim.schedule import WarmupDecay

__all__ = ["MuonAdamW", "WarmupDecay", "newton_schulz"]
