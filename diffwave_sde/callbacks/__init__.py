"""What happens around the training steps: averaging, watching, making sounds, measuring them, showing, logging."""

from diffwave_sde.callbacks.ema import EMA
from diffwave_sde.callbacks.frechet_score import FrechetScore
from diffwave_sde.callbacks.last_checkpoint import LastCheckpoint
from diffwave_sde.callbacks.likelihood import Likelihood
from diffwave_sde.callbacks.metric_history import MetricHistory
from diffwave_sde.callbacks.progress import Progress
from diffwave_sde.callbacks.reconstruction_logger import ReconstructionLogger
from diffwave_sde.callbacks.sample_logger import SampleLogger
from diffwave_sde.callbacks.spikes import SpikeDetector
from diffwave_sde.callbacks.wandb import Wandb

__all__ = [
    "EMA", "FrechetScore", "LastCheckpoint", "Likelihood", "MetricHistory", "Progress", "ReconstructionLogger",
    "SampleLogger", "SpikeDetector", "Wandb",
]  # fmt: skip
