"""What happens around the training steps: averaging, watching, listening, scoring, showing, logging."""

from diffwave_sde.callbacks.ema import EMA
from diffwave_sde.callbacks.last import LastCheckpoint
from diffwave_sde.callbacks.listening import Listening
from diffwave_sde.callbacks.progress import Progress
from diffwave_sde.callbacks.scoring import Scoring
from diffwave_sde.callbacks.spikes import SpikeDetector
from diffwave_sde.callbacks.wandb import Wandb

__all__ = ["EMA", "LastCheckpoint", "Listening", "Progress", "Scoring", "SpikeDetector", "Wandb"]
