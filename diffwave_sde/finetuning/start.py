"""The model that a fine-tuning starts from: its configuration, and its averaged weights in a network of other classes.

The process, the parametrization, the network, σ of the data, the loss and the sampler are the starting model's unless
they are overridden. All weights are taken as they are, but for those of the classes: a row of a class embedding is
that of the class that it starts from (`classes`), the mean of those where there are several, and for a new class the
mean of all that the model knows; the last row, "no class", stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffwave_sde import checkpoint
from diffwave_sde.denoiser import Denoiser
from diffwave_sde.finetuning.classes import Sources, match
from diffwave_sde.model import KEY, Model
from diffwave_sde.names import listed, printable

_OWN = ("optimizer", "scheduler", "seed", "compile", "val_draws")
"""Of a model's configuration what belongs to its training, not to it."""


@dataclass(frozen=True)
class Start:
    """A model to start from.

    name: as it was asked for.
    path: its checkpoint, or the weights of an exported model.
    denoiser: with the averaged weights.
    labels: names of its classes; none where it was trained without.
    step: optimizer steps that it has taken.
    recipe: what its checkpoint says of it.
    """

    name: str
    path: Path
    denoiser: Denoiser
    labels: tuple[str, ...]
    step: int
    recipe: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> Start:
        """The model that `--init` names: a run, a checkpoint, an exported model, or one that comes with the program.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged.
        """
        model = checkpoint.load(name)
        denoiser = model.module.denoiser
        labels = model.labels if denoiser.net.classes else ()
        return cls(name, model.path, denoiser, labels, model.step, checkpoint.read(model.path)[KEY])

    @property
    def options(self) -> dict[str, Any]:
        """Options of a training, as its YAML would have them."""
        model = {k: v for k, v in self.recipe["config"]["model"].items() if k not in _OWN}
        for network in ("net", "weak"):
            if model.get(network):
                # Those of the data and of the process, which may be others.
                options = {**model[network].get("init_args", {}), "classes": None, "inputs": None}
                model[network] = {**model[network], "init_args": options}
        model["sigma_data"] = float(self.denoiser.sigma_data)
        return {"model": model, "data": {"mu": self.recipe["mu"], "length": self.recipe["length"]}}

    @property
    def fact(self) -> dict[str, Any]:
        """What a checkpoint is to say of its start; nothing of this machine."""
        folder = self.path.parent
        name = folder.parent.name if folder.name == "checkpoints" else folder.name
        inherited = {k: self.recipe[k] for k in ("licences", "started_from") if self.recipe.get(k)}
        return {"name": printable(name), "step": self.step, **inherited}

    def fill(self, model: Model, labels: tuple[str, ...]) -> Sources:
        """Put the weights into a model of other classes.

        Args:
            model: not trained yet.
            labels: names of its classes.

        Returns:
            what each class starts from.

        Raises:
            ValueError: if its network is not the one of the starting model.
        """
        sources = match(labels, self.labels)
        pairs = [("network", self.denoiser.net, model.denoiser.net)]
        if self.denoiser.weak is not None and model.denoiser.weak is not None:
            pairs.append(("weak network", self.denoiser.weak.net, model.denoiser.weak.net))
        for kind, old, new in pairs:
            if old.inputs != new.inputs:
                asked = type(model.denoiser.sde).__name__
                raise ValueError(
                    f"--init {self.name}: its {kind} takes {old.inputs} blocks of {type(self.denoiser.sde).__name__}, "
                    f"and {asked} has {new.inputs}: leave the process out, or start from a model of {asked}"
                )
            state = self._state(old, new, sources, labels)
            mine = new.state_dict()
            for name in sorted(mine.keys() | state.keys()):
                here, there = (f"{tuple(s[name].shape)}" if name in s else "not there" for s in (mine, state))
                if here != there:
                    raise ValueError(
                        f"--init {self.name}: the {kind} does not fit: {name} is {there} in the model and {here} in "
                        "the one asked for; leave out what changes the network or the process, or take another model"
                    )
            new.load_state_dict(state)
        theirs, mine = self.denoiser.sde, model.denoiser.sde
        if type(theirs) is type(mine) and _shapes(theirs) == _shapes(mine):
            mine.load_state_dict(theirs.state_dict())  # what a learned process has learned
        return sources

    def _state(self, old: nn.Module, new: nn.Module, sources: Sources, labels: tuple[str, ...]) -> dict[str, Tensor]:
        """The weights of the old network with class embeddings for the new one."""
        state = dict(old.state_dict())
        if not new.classes:
            return state
        for name, layer in new.named_modules():
            # An embedding of the classes has a row for each of them, and a last one for no class.
            if not isinstance(layer, nn.Embedding) or layer.num_embeddings != new.classes + 1:
                continue
            key = f"{name}.weight"
            if not old.classes:
                # Nothing is added for any class: the network says what it said before.
                state.setdefault(key, torch.zeros_like(layer.weight))
            elif key in state and len(state[key]) == old.classes + 1:
                state[key] = torch.stack([*(self._row(state[key], sources[label]) for label in labels), state[key][-1]])
        return state

    def _row(self, table: Tensor, sources: tuple[str, ...]) -> Tensor:
        """The row (E,) of a class that starts from these of the model's."""
        rows = [self.labels.index(label) for label in sources]
        if len(rows) == 1:
            return table[rows[0]]
        return table[rows].mean(0) if rows else table[:-1].mean(0)


def told(start: Start, sources: Sources) -> str:
    """What was mapped, and what is new, in one line."""
    mapped = [f"{listed([name])} from {'+'.join(listed([s]) for s in old)}" for name, old in sources.items() if old]
    new = [name for name, old in sources.items() if not old]
    parts = [", ".join(mapped), f"new: {listed(new)}" if new else ""]
    return f"fine-tuning {start.name}, step {start.step:,}; classes: {'; '.join(filter(None, parts))}"


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in module.state_dict().items()}
