"""Models from checkpoints: a checkpoint holds its own configuration, so that its path is all one needs.

So does the folder that `diffwave-sde export` writes, `model.safetensors` with `config.yaml` beside it: wherever sounds
are made it stands for a checkpoint. Such folders in `models/` come with the program, and are known by their names.
"""

from diffwave_sde.checkpoint.autoencoders import LoadedAutoencoder, load_autoencoder
from diffwave_sde.checkpoint.building import AUTOENCODER, CASCADE, build
from diffwave_sde.checkpoint.classifiers import load_classifier
from diffwave_sde.checkpoint.files import (
    MODELS,
    RECIPE,
    WEIGHTS,
    best,
    find,
    flat_filename,
    is_export,
    kind_of,
    licence,
    newest,
    read,
    shipped,
)
from diffwave_sde.checkpoint.models import LoadedModel, load
from diffwave_sde.checkpoint.sounds import data

__all__ = [
    "AUTOENCODER", "CASCADE", "MODELS", "RECIPE", "WEIGHTS", "LoadedAutoencoder", "LoadedModel", "best", "build",
    "data", "find", "flat_filename", "is_export", "kind_of", "licence", "load", "load_autoencoder", "load_classifier",
    "newest", "read", "shipped",
]  # fmt: skip
