"""Autoencoders from checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffwave_sde.autoencoder import Autoencoder
from diffwave_sde.checkpoint.building import AUTOENCODER, A, Loaded, build, fill_part
from diffwave_sde.checkpoint.files import find, read
from diffwave_sde.model import KEY, first_mismatch


@dataclass(frozen=True)
class LoadedAutoencoder(Loaded):
    """An autoencoder as it was trained."""

    module: Autoencoder

    def check(self, data: Any) -> None:
        """Raise a ValueError of one line if it was trained on sounds that are prepared otherwise than these data."""
        for what, unit in {"rate": " Hz", "length": " samples", "mu": ""}.items():
            theirs, own = getattr(self, what), getattr(data, what)
            if theirs != own:
                raise ValueError(
                    f"--model.latent {self.path}: its {what} is {theirs:g}{unit} and that of the data {own:g}{unit}: "
                    "take an autoencoder of sounds that are prepared in the same way"
                )

    def fill(self, autoencoder: Autoencoder) -> None:
        """Give its weights to another one; raise a ValueError of one line if that is of another layout."""
        if wrong := first_mismatch(autoencoder, self.module.state_dict()):
            raise ValueError(
                f"--model.latent {self.path}: its layout is another than --model.autoencoder ({wrong} differs): leave "
                "--model.autoencoder out"
            )
        autoencoder.load_state_dict(self.module.state_dict())


def load_autoencoder(path: str | Path, device: str = "cpu") -> LoadedAutoencoder:
    """The autoencoder of a checkpoint, with its averaged weights; or that which a model of latents holds.

    Args:
        path: as in `find`.
        device: where to put it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or of anything else.
    """
    path = find(path)
    state = read(path)
    recipe = state[KEY]
    config = (recipe.get("config") or {}).get("model") or {}
    own = recipe.get("kind") == AUTOENCODER
    if not config.get("autoencoder"):
        what = A.get(recipe.get("kind"), "a model of sounds")
        raise ValueError(
            f"{path} is of {what}, not of an autoencoder: train one with `diffwave-sde fit --config "
            "configs/experiment/vae.yaml`"
        )
    autoencoder = build({"autoencoder": config["autoencoder"]}, _Holder, path).autoencoder
    fill_part(autoencoder, state, "autoencoder." if own else "latents.autoencoder.")
    return LoadedAutoencoder.of(autoencoder, state, path, device)


class _Holder(nn.Module):
    """What has an autoencoder and nothing else, as a configuration describes it."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder
