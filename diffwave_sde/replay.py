"""A recorded loss spike, made again on one machine: whether the clips, the draw of times and noise, or the weights.

The step is computed again from its weights, clips and draws, and then with one or two of them replaced:

    same clips, other draws        what is left of it is the clips'
    other clips, same draw         what is left of it is the draw's
    other clips, other draws       what is left of it is the weights'
    same clips and draw, earlier weights

A computation spikes where a measure that stood out in training (loss, gradient norm) lies above the limit of then, or
is not finite; a replacement spikes where more than half of its trials do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffwave_sde import audio, checkpoint
from diffwave_sde.atomic import atomic_folder
from diffwave_sde.callbacks import spike_state
from diffwave_sde.data.clips import Clips
from diffwave_sde.denoiser import Condition
from diffwave_sde.looping import turned
from diffwave_sde.loss import NoiseDraw
from diffwave_sde.module import DiffusionModule
from diffwave_sde.random import stream
from diffwave_sde.sounds import page

RULE = (
    "a trial spikes where a measure that stood out lies above its limit, or is not finite; a row spikes where more "
    "than half of its trials do. Not again as recorded: unknown. Other clips with other draws spike: the weights. Else "
    "the same clips with other draws: the data; other clips with the same draw: the draw; neither: both together"
)
AGAIN, CLIPS, DRAWS, NEITHER, EARLIER = "as recorded", "same clips", "same draw", "weights alone", "earlier weights"

Inputs = tuple[Tensor, Condition, NoiseDraw]


@dataclass(frozen=True)
class Spike:
    """What a run recorded of a spike.

    path: the record, `spikes/step=N.pt`.
    record: as SpikeDetector writes it.
    state: the file of its weights, clips and draws.
    inputs: of each process and accumulated batch, as `spike_state` writes them.
    """

    path: Path
    record: dict[str, Any]
    state: Path
    inputs: list[dict[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> Spike:
        """Read a record, and the state beside it; as tensors and plain values alone, never code.

        Raises:
            FileNotFoundError: if there is no such record, or it has no state.
            ValueError: if a file is damaged, or of something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no spike at {path}: give a record, such as runs/drums/spikes/step=1234.pt")
        record = _plain(path)
        if not _is_record(record):
            raise ValueError(f"{path} is no record of a spike: give one of runs/NAME/spikes")
        state = path.parent / spike_state.STATE / path.name
        if not state.is_file():
            others = sorted(state.parent.glob("step=*.pt"), key=spike_state.step_of)
            there = f": those of {', '.join(p.name for p in others)} are" if others else ""
            raise FileNotFoundError(
                f"{path}: the weights and clips of this spike are not kept{there}; the SpikeDetector's `states` says "
                "of how many they are"
            )
        held = checkpoint.read(state)
        inputs = held.get("inputs")
        if held["global_step"] != record["step"] or not _fit(inputs, record["batches"]):
            raise ValueError(f"{state} is not of the spike in {path}: take both from one run")
        return cls(path, record, state, inputs)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.path.resolve().parents[1]

    def spikes(self, loss: float, norm: float) -> bool:
        """Whether a computation of this loss and gradient norm spikes."""
        limits = self.record.get("usual") or {}
        for name, value in (("loss", loss), ("grad_norm", norm)):
            limit = limits.get(name, {}).get("limit", math.inf)
            if name in self.record["reasons"] and not (math.isfinite(value) and value <= limit):
                return True
        return False


def _plain(path: Path) -> Any:
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file fails in any way it likes
        first = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ValueError(f"{path} is no record of a spike, or it is damaged: {first}") from None
    return record


def _is_record(record: Any) -> bool:
    """Whether what a file holds has the shape of a spike's record, of an earlier version too."""
    try:
        numbers = [record["loss"], record["grad_norm"], *record["reasons"].values()]
        numbers += [one[key] for one in record.get("usual", {}).values() for key in ("median", "limit")]
        sizes = {len(b[key]) - len(b["losses"]) for b in record["batches"] for key in ("index", "sigma")}
        named = {len(b["names"]) - len(b["losses"]) for b in record["batches"] if "names" in b}
        return all(isinstance(x, float) for x in numbers) and sizes | named == {0} and isinstance(record["step"], int)
    except (TypeError, KeyError, AttributeError, IndexError):
        return False


def _fit(inputs: Any, batches: list) -> bool:
    """Whether the inputs of a state are those of a record's batches."""
    try:
        sizes = [tuple(len(one[key]) for key in ("audio", "t", "eps", "label")) for one in inputs]
        return sizes == [(len(b["losses"]),) * 4 for b in batches]
    except (TypeError, KeyError):
        return False


@dataclass(frozen=True)
class Trial:
    """One computation: loss and gradient norm of the global batch, of each clip its loss, of each layer its norm."""

    loss: float
    norm: float
    losses: tuple[float, ...]
    layers: dict[str, float]


@dataclass(frozen=True)
class Row:
    """A replacement.

    key: which.
    what: in words.
    trials: its computations.
    spiked: how many of them spike.
    """

    key: str
    what: str
    trials: tuple[Trial, ...]
    spiked: int

    @property
    def spikes(self) -> bool:
        return 2 * self.spiked > len(self.trials)

    def median(self, of: Callable[[Trial], float]) -> float:
        """The median of a figure over the trials; what is not finite is larger than all."""
        return statistics.median(v if math.isfinite(v) else math.inf for v in map(of, self.trials))


@dataclass(frozen=True)
class Clip:
    """A clip of the spike.

    name: of its file.
    sigma: noise level.
    recorded, again: its loss then and now.
    elsewhere: its median loss at other draws.
    wave: the waveform, companded as in training, (T,).
    """

    name: str
    sigma: float
    recorded: float
    again: float
    elsewhere: float
    wave: Tensor


@dataclass(frozen=True)
class Report:
    """What was found: the rows by key, the cause, why, the clips.

    cause: "data", "draw", "weights", "data and draw", "together" or "unknown".
    clips: the highest loss first; for the cause "data", the highest at other draws.
    earlier: the checkpoint of the earlier weights, or None.
    """

    spike: Spike
    rows: dict[str, Row]
    cause: str
    why: str
    clips: tuple[Clip, ...]
    earlier: Path | None
    rate: int
    mu: float

    @property
    def layers(self) -> list[tuple[str, float, float]]:
        """Name, gradient norm, and that with other clips and draws, of each layer; the largest first."""
        again, usual = self.rows[AGAIN].trials[0].layers, self.rows[NEITHER]
        found = [
            (name, norm, usual.median(lambda trial, name=name: trial.layers[name])) for name, norm in again.items()
        ]
        return sorted(found, key=lambda layer: -_order(layer[1]))


def replay(
    spike: Spike,
    trials: int = 4,
    device: str = "cpu",
    ckpt: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Make a spike again, and find what made it.

    Args:
        spike: as recorded.
        trials: computations for each replacement.
        device: where to compute.
        ckpt: the checkpoint of the earlier weights; null for the nearest before the spike in the run's folder.
        seed: of the clips and draws that stand in.
        progress: told how many computations are done, of how many.

    Raises:
        FileNotFoundError: if the clips that it was trained on are gone.
        ValueError: if the state, the checkpoint or the data do not fit.
    """
    loaded = _load(spike.state)
    data = checkpoint.data(spike.state)
    earlier = checkpoint.find(ckpt) if ckpt is not None else earlier_checkpoint(spike)
    before = _load(earlier).module if earlier else None
    module = loaded.module
    own = [spike_state.read(one) for one in spike.inputs]
    others = _Others(data, spike, seed)
    plan = [
        (AGAIN, "as recorded", module, lambda k: own, 1),
        (CLIPS, "same clips, other noise and times", module, lambda k: others.draws(module, own, k), trials),
        (DRAWS, "other clips, same noise and times", module, lambda k: others.clips(own, k), trials),
        (
            *(NEITHER, "other clips, other noise and times", module),
            *(lambda k: others.draws(module, others.clips(own, k), k), trials),
        ),
    ]
    if before is not None:
        step = checkpoint.read(earlier)["global_step"]
        plan.append((EARLIER, f"as recorded, weights of step {step:,}", before, lambda k: own, 1))
    total, done, rows = sum(times for *_, times in plan), 0, {}
    for key, what, net, make, times in plan:
        found = []
        for k in range(times):
            found.append(_compute(net, spike, make(k), device))
            done += 1
            progress(done, total)
        rows[key] = Row(key, what, tuple(found), sum(spike.spikes(one.loss, one.norm) for one in found))
    cause, why = verdict(rows)
    return Report(spike, rows, cause, why, _clips(spike, rows, cause), earlier, loaded.rate, loaded.mu)


def _load(path: Path) -> checkpoint.LoadedModel:
    """A model with the weights that the optimizer left, and what its loss needs beside them, such as a teacher."""
    loaded = checkpoint.load(path, "raw", kind=DiffusionModule)
    loaded.module.loss.begin(loaded.module.denoiser, loaded.module.sampler, started=True)
    return loaded


def verdict(rows: dict[str, Row]) -> tuple[str, str]:
    """The cause by `RULE`, and the rows that decide it in words."""
    spikes = {key: row.spikes for key, row in rows.items()}

    def told(*keys: str) -> str:
        return ", ".join(f"{rows[key].what}: {rows[key].spiked} of {len(rows[key].trials)} spike" for key in keys)

    if not spikes[AGAIN]:
        return "unknown", "the step does not spike again from its own weights, clips and draw"
    if spikes[NEITHER]:
        since = ""
        if EARLIER in rows:
            since = "; those of the earlier checkpoint " + ("do so too" if spikes[EARLIER] else "do not")
        return "weights", told(NEITHER) + since
    if spikes[CLIPS] and spikes[DRAWS]:
        return "data and draw", told(CLIPS, DRAWS)
    if spikes[CLIPS]:
        return "data", told(CLIPS, DRAWS)
    if spikes[DRAWS]:
        return "draw", told(DRAWS, CLIPS)
    return "together", told(CLIPS, DRAWS) + ": these clips at this draw"


def earlier_checkpoint(spike: Spike) -> Path | None:
    """The nearest checkpoint of the run from before the spike, or None."""
    found = []
    for file in (spike.run / "checkpoints").rglob("*.ckpt"):
        try:
            step = checkpoint.read(file)["global_step"]
        except ValueError:  # of something else
            continue
        if step <= spike.record["step"]:
            found.append((step, str(file)))
    return Path(max(found)[1]) if found else None


class _Others:
    """Clips and draws that stand in for those of a spike, each a function of the seed and the trial's number."""

    def __init__(self, data: Any, spike: Spike, seed: int):
        taken = {row for batch in spike.record["batches"] for row in batch["index"].tolist()}
        rows = data.splits["train"]
        rest = np.array([row for row in rows.tolist() if row not in taken], np.int64)
        self.dataset, self.seed = Clips(data.store, rest if len(rest) else rows, data.mu), seed

    def clips(self, own: list[Inputs], k: int) -> list[Inputs]:
        """Training clips in the places of the spike's, with its draws."""
        count = sum(len(x) for x, _, _ in own)
        order = np.random.default_rng([self.seed, k]).permutation(len(self.dataset))
        places, out = np.resize(order, count).tolist(), []
        for x, condition, draw in own:
            batch = self.dataset.__getitems__(places[: len(x)])
            places = places[len(x) :]
            label = condition.label if condition.label is None else torch.where(condition.label < 0, -1, batch.label)
            heard = condition.audio
            if heard is not None:  # hidden where it was
                heard = batch.context * (heard.flatten(1).abs().amax(1) > 0)[:, None, None]
            x = batch.audio
            if condition.turn is not None:
                x, heard = (None if y is None else turned(y, condition.turn) for y in (x, heard))
            out.append((x, replace(condition, label=label, audio=heard), draw))
        return out

    def draws(self, module: DiffusionModule, own: list[Inputs], k: int) -> list[Inputs]:
        """The clips with other times and noise; each may take any part of the noise levels, not that of its place."""
        total, out, first = sum(len(x) for x, _, _ in own), [], 0
        order = torch.randperm(total, generator=stream(self.seed, "order", k))
        module.to("cpu")  # whose numbers are the same everywhere
        for x, condition, _ in own:
            places = order[first : first + len(x)]
            generators = [stream(self.seed, "replay", k, first + i) for i in range(len(x))]
            shared = stream(self.seed, "replay", k, "shared")
            out.append((x, condition, module.loss.draw(module.process, x, generators, places, total, shared)))
            first += len(x)
        return out


def _compute(module: DiffusionModule, spike: Spike, inputs: list[Inputs], device: str) -> Trial:
    """Loss and gradient as training has them: the mean over all processes and accumulated batches."""
    module.to(device).train().requires_grad_(True)
    module.zero_grad(set_to_none=True)
    losses = []
    for told, (x, condition, draw) in zip(spike.inputs, inputs, strict=True):
        # That of training's dropout, on a CPU.
        torch.manual_seed(stream(module.seed, "dropout", told["counter"], told["rank"]).initial_seed())
        module.loss.begin_step(spike.record["step"])
        there = NoiseDraw(**{k: None if v is None else v.to(device) for k, v in vars(draw).items()})
        one = module.loss.at(module.denoiser, x.to(device), there, condition.to(device))
        (one.mean() / len(inputs)).backward()
        losses += one.detach().float().cpu().tolist()
    squares: dict[str, float] = {}
    for name, p in module.named_parameters():
        if p.grad is not None:
            layer = name.rpartition(".")[0]
            squares[layer] = squares.get(layer, 0.0) + float(p.grad.double().square().sum())
    norm = math.sqrt(sum(squares.values()))
    module.zero_grad(set_to_none=True)
    size = [len(x) for x, _, _ in inputs]
    parts = [sum(losses[sum(size[:i]) : sum(size[: i + 1])]) / n for i, n in enumerate(size)]
    layers = {name: math.sqrt(value) for name, value in squares.items()}
    return Trial(sum(parts) / len(parts), norm, tuple(losses), layers)


def _order(value: float) -> float:
    """Where a figure stands among others: what is not finite is the largest."""
    return value if math.isfinite(value) else math.inf


def _clips(spike: Spike, rows: dict[str, Row], cause: str) -> tuple[Clip, ...]:
    again, out, i = rows[AGAIN].trials[0].losses, [], 0
    for batch, inputs in zip(spike.record["batches"], spike.inputs, strict=True):
        names = batch.get("names") or [f"row {row}" for row in batch["index"].tolist()]
        told = zip(names, batch["sigma"].tolist(), batch["losses"].float().tolist(), inputs["audio"], strict=True)
        for name, sigma, recorded, wave in told:
            elsewhere = rows[CLIPS].median(lambda trial, i=i: trial.losses[i])
            out.append(Clip(name or "a clip", sigma, recorded, again[i], elsewhere, wave[0]))
            i += 1
    return tuple(sorted(out, key=lambda clip: -_order(clip.elsewhere if cause == "data" else clip.again)))


def write_page(report: Report, shown: int = 12) -> Path:
    """Write a page to hear the clips by, `step=N/index.html` beside the record; the page.

    Args:
        shown: clips that it has at most, the worst ones.
    """
    spike, clips = report.spike, report.clips[:shown]
    home = spike.path.with_suffix("")
    names = [f"{i:02d} {Path(clip.name).stem}" for i, clip in enumerate(clips)]
    waves = audio.expand(torch.stack([clip.wave for clip in clips]).nan_to_num(0.0, 1.0, -1.0).clamp(-1, 1), report.mu)
    captions = [
        f"{clip.name}: loss {clip.again:.4g} at σ = {clip.sigma:.3g}; {clip.elsewhere:.4g} at other draws"
        for clip in clips
    ]
    with atomic_folder(home) as folder:
        files = page.write_sounds(folder, names, waves, report.rate)
        column = page.Column("clips", files, captions=captions)
        note = f"Cause: {report.cause} ({report.why})."
        page.write(folder / "index.html", f"Spike at step {spike.record['step']:,}", names, [column], note)
    return home / "index.html"
