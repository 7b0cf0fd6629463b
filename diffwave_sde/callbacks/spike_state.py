"""What a spike was computed from: weights, clips and draws, kept beside its record so that it can be made again.

`spikes/state/step=N.pt` reads as a checkpoint without an optimizer (`checkpoint.load`), with `inputs` beside the
weights: a dict for each process and accumulated batch, of rank, counter, audio (B, C, T), the fields of the draw (t,
eps, weight, probes) and those of the condition (label, context, guidance, level, turn).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffwave_sde.atomic import atomic_write
from diffwave_sde.callbacks.training_state import TrainingState
from diffwave_sde.denoiser import Condition
from diffwave_sde.loss import NoiseDraw
from diffwave_sde.model import KEY

STATE = "state"
"""The folder of the states, in that of the records."""

DRAW = ("t", "eps", "weight", "probes")
CONDITION = {"label": "label", "context": "audio", "guidance": "guidance", "level": "level", "turn": "turn"}


def plain(parts: Sequence[tuple[int, int, tuple[Tensor, Condition, NoiseDraw] | None]]) -> list[dict[str, Any]]:
    """Rank, counter and what was taken of each batch, as tensors on the CPU; none where a batch tells nothing."""
    if any(taken is None for _, _, taken in parts):
        return []
    out = []
    for rank, counter, (x, condition, draw) in parts:
        tensors = {"audio": x, **{name: getattr(draw, name) for name in DRAW}}
        tensors |= {name: getattr(condition, field) for name, field in CONDITION.items()}
        cpu = {k: None if v is None else v.detach().cpu().clone() for k, v in tensors.items()}
        out.append({"rank": rank, "counter": counter, **cpu})
    return out


def read(inputs: dict[str, Any]) -> tuple[Tensor, Condition, NoiseDraw]:
    """The clips, condition and draw of a batch."""
    condition = Condition(**{field: inputs.get(name) for name, field in CONDITION.items()})
    return inputs["audio"], condition, NoiseDraw(**{name: inputs[name] for name in DRAW})


def write(home: Path, step: int, module: LightningModule, inputs: list[dict], before: TrainingState | None) -> None:
    """Write the state of a spike.

    Args:
        home: the folder of the records.
        step: of the spike.
        module: whose weights met it.
        inputs: as `plain` gives them, of all processes.
        before: the copy that holds these weights, where the module's have gone on; null for the module's.
    """
    weights = module.state_dict() if before is None else before.weights(module)
    weights = {name: x.detach().cpu() for name, x in weights.items()}
    recipe = {**module.metadata, "kind": module.kind, "batches": module.batches}
    with atomic_write(home / STATE / f"step={step}.pt") as temporary:
        torch.save({"state_dict": weights, "global_step": step, KEY: recipe, "inputs": inputs}, temporary)


def step_of(path: Path) -> int:
    """The N of `step=N.pt`."""
    return int(path.stem.partition("=")[2])


def prune(home: Path, keep: int, states: int) -> None:
    """Take away all records but the newest, and all states but some of theirs: of a row of spikes the first stays."""
    records = sorted(home.glob("step=*.pt"), key=step_of)
    for old in records[:-keep]:
        old.unlink(missing_ok=True)
    steps = {step_of(path) for path in records[-keep:]}
    found = {step_of(path): path for path in (home / STATE).glob("step=*.pt")}
    wanted = sorted(found.keys() & steps, key=lambda n: (n - 1 not in steps, n))
    for step in found.keys() - set(wanted[max(0, len(wanted) - states) :]):
        found[step].unlink(missing_ok=True)
