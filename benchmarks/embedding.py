"""The learned embedding: how far it is moved by what spoils a sound, and its training.

    python benchmarks/embedding.py [--weights FILE] [--markdown FILE]
    python benchmarks/embedding.py --steps N --out diffwave_sde/metrics/learned.safetensors

The first measures: the Fréchet distance between built-in drums and other built-in drums that are corrupted, over its
floor, the distance between two sets of clean ones. The second trains before it measures.

Training is on built-in drums and synthesizer notes alone. The network's 64 numbers, noise added, must tell by linear
maps which class a sound is of, the parameters that it was made with, which corruption it has suffered and how strong
it was. The noise makes distances count: what must be told has to stand above it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save as packed
from tables import markdown
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.data.builtin import RECIPES
from diffwave_sde.data.sources import Rendered
from diffwave_sde.metrics import Embedding, LogMel, aligned, frechet
from diffwave_sde.metrics.learned import Encoder, Learned
from diffwave_sde.progress import progress_bar

CONSOLE = Console(stderr=True)
UNHEARD = ("family_index", "level_dbfs")  # a number of no order, and what alignment takes away
UNCHANGED = 1e-4  # rms re the sound's: less, and the corruption did not take place


# ------------------------------------------------------------------------------------------------ corruptions


@dataclass(frozen=True)
class Corruption:
    """What spoils a sound.

    unit: of its strength.
    weak, strong: the strengths between which training draws, evenly in the logarithm if `log`.
    of: (sounds (n, T), strengths (n, 1), generator) -> (n, T).
    """

    unit: str
    weak: float
    strong: float
    log: bool
    of: Callable[[Tensor, Tensor, torch.Generator], Tensor]

    def at(self, share: Tensor) -> Tensor:
        """The strength at a share of the range: 0 is weak, 1 is strong."""
        if self.log:
            return self.weak * (self.strong / self.weak) ** share
        return self.weak + (self.strong - self.weak) * share


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)


def rms(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True).sqrt()


def gain(decibels: Tensor) -> Tensor:
    return 10 ** (decibels / 20)


def filtered(x: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
    """x through a filter without phase, given by its response to each frequency, Hz."""
    size = 2 * x.shape[-1]  # no end rings into the beginning
    hertz = torch.fft.rfftfreq(size, 1 / audio.RATE)
    return torch.fft.irfft(torch.fft.rfft(x, size) * response(hertz), size)[..., : x.shape[-1]]


def shuffled(x: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    """Each bin's phase turned by up to `share` of half a turn, either way."""
    spectrum = torch.fft.rfft(x)
    turn = (2 * torch.rand(spectrum.shape, generator=generator) - 1) * math.pi * share
    return torch.fft.irfft(torch.polar(spectrum.abs(), spectrum.angle() + turn), x.shape[-1])


def cut(x: Tensor, milliseconds: Tensor, _: torch.Generator) -> Tensor:
    end = audio.PRE_ROLL + milliseconds * audio.RATE / 1000
    return x * ((end - torch.arange(x.shape[-1])) / audio.DECLICK).clamp(0, 1)


def quantised(x: Tensor, bits: Tensor, _: torch.Generator) -> Tensor:
    steps = 2 ** (bits - 1) - 1
    return (x * steps).round() / steps


def clipped(x: Tensor, decibels: Tensor, _: torch.Generator) -> Tensor:
    most = x.abs().amax(-1, keepdim=True) * gain(-decibels)
    return x.clamp(-most, most)


def residue(x: Tensor, decibels: Tensor, generator: torch.Generator) -> Tensor:
    """Noise in a band of one to four octaves that follows the envelope: what half a training leaves about a body."""
    low, width = (torch.rand(len(x), 1, generator=generator) for _ in range(2))
    low = 50 * 100**low
    high = low * 2 ** (1 + 3 * width)
    band = filtered(noise(x, generator), lambda f: ((f > low) & (f < high)).float())
    envelope = functional.avg_pool1d(x.square()[:, None], 221, 1, 110)[:, 0].sqrt()  # 5 ms
    return x + gain(-decibels) * envelope * band / rms(band)


CORRUPTIONS = {
    "none": Corruption("", 0, 0, False, lambda x, v, g: x),
    "hiss": Corruption("dBFS", -70, -30, False, lambda x, v, g: x + gain(v) * noise(x, g)),
    "noise": Corruption("dB below", 40, 5, False, lambda x, v, g: x + gain(-v) * rms(x) * noise(x, g)),
    "low pass": Corruption("Hz", 12_000, 1000, True, lambda x, v, g: filtered(x, lambda f: (1 + (f / v) ** 4) ** -1.5)),
    "high pass": Corruption(
        "Hz", 60, 1000, True, lambda x, v, g: filtered(x, lambda f: (1 + (v / f.clamp_min(1)) ** 4) ** -1.5)
    ),
    "tail cut": Corruption("ms", 250, 30, True, cut),
    "shuffled phases": Corruption("of all", 0.1, 1, True, shuffled),
    "quantisation": Corruption("bits", 10, 4, False, quantised),
    "clipping": Corruption("dB below", 3, 24, False, clipped),
    "residue": Corruption("dB below", 50, 20, False, residue),
}
NAMES = list(CORRUPTIONS)


def corrupted(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sounds (n, T) at the onset, each with a corruption: those, which (n,), and how strong, (n,) in [0, 1].

    None at all is twice as likely as any other. Where one changes nothing, as a cut does to a short sound, it is none.
    """
    kind = (torch.randint(len(NAMES) + 1, (len(x),), generator=generator) - 1).clamp_min(0)
    share = torch.rand(len(x), generator=generator)
    y = x.clone()
    for k, corruption in enumerate(CORRUPTIONS.values()):
        rows = (kind == k).nonzero()[:, 0]
        if len(rows):
            y[rows] = corruption.of(x[rows], corruption.at(share[rows, None]), generator)
    kind[(rms(y - x) < UNCHANGED * rms(x))[:, 0]] = 0
    return y, kind, share


def disguised(x: Tensor, generator: torch.Generator) -> Tensor:
    """Sounds (n, T) at other levels, either way up, up to 3 ms late: all the same to the ear."""
    level, turn, late = torch.rand(3, len(x), generator=generator)
    x = x * (gain(-20 * level) * (2 * (turn < 0.5) - 1))[:, None]
    shifts = (late * 0.003 * audio.RATE).long().tolist()
    return torch.stack([functional.pad(row, (shift, 0))[: len(row)] for row, shift in zip(x, shifts, strict=True)])


# ----------------------------------------------------------------------------------------------------- sounds


@dataclass(frozen=True)
class Sounds:
    """Built-in sounds.

    clips: (n, window), int16.
    labels: the classes.
    parameters: (n, p), NaN where a sound's voice has no such parameter; logarithms where they were drawn so.
    """

    clips: Tensor
    labels: list[str]
    parameters: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: Tensor) -> Tensor:
        """Waveforms (len(rows), window)."""
        return self.clips[rows].float() / 32768


LABELS = [label for voices in RECIPES.values() for label in voices]
# Each voice's parameters apart: what is one name of two voices need not be one to the ear.
PARAMETERS = {
    f"{label}/{name}": law.law
    for voices in RECIPES.values()
    for label, families in voices.items()
    for family in families
    for name, law in family.ranges.items()
    if name not in UNHEARD
}


def load(item: Rendered):
    return item.load(Embedding.window)


def rendered(what: str, counts: dict[str, int], seed: int, workers: int) -> Sounds:
    items = [Rendered(name, i, seed) for name, count in counts.items() for i in range(count)]
    # spawned: a fork of a process whose libraries run threads may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool, progress_bar("sounds") as progress:
        clips = list(progress.track(pool.map(load, items, chunksize=16), len(items), description=what))
    parameters = torch.full((len(items), len(PARAMETERS)), math.nan)
    for row, clip in zip(parameters, clips, strict=True):
        for i, (name, law) in enumerate(PARAMETERS.items()):
            label, _, name = name.partition("/")
            if label == clip.label and name in clip.parameters:
                value = clip.parameters[name]
                row[i] = math.log(value) if law == "log" else value
    return Sounds(torch.stack([torch.from_numpy(c.window) for c in clips]), [c.label for c in clips], parameters)


# --------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Batch:
    """Aligned sounds (n, window) and what is to be told of them.

    label, kind, share: (n,), the class, the corruption and how strong it is.
    parameters: (n, p), standardised, NaN where there is none.
    """

    x: Tensor
    label: Tensor
    kind: Tensor
    share: Tensor
    parameters: Tensor

    @classmethod
    def of(cls, sounds: Sounds, rows: Tensor, generator: torch.Generator) -> Batch:
        x = sounds.read(rows)
        if torch.rand((), generator=generator) < 0.5:  # as short as a model's: silence at the end is no corruption
            x = audio.fade_out(x[:, : audio.LENGTH], round(audio.FADE * audio.LENGTH))
        x, kind, share = corrupted(x, generator)
        x = aligned(disguised(x, generator), Embedding.window)
        label = torch.tensor([LABELS.index(sounds.labels[i]) for i in rows.tolist()])
        return cls(x, label, kind, share, sounds.parameters[rows])


class Pupil(nn.Module):
    """The encoder, and a linear map of its numbers for each task.

    Args:
        noise: standard deviation of the noise added to each number in training.
    """

    def __init__(self, noise: float):
        super().__init__()
        self.encoder, self.noise = Encoder(), noise
        size = self.encoder.out.out_features
        self.label = nn.Linear(size, len(LABELS))
        self.kind = nn.Linear(size, len(NAMES))
        self.share = nn.Linear(size, len(NAMES))  # how strong each corruption is, 0 where it is not
        self.recipe = nn.Linear(size, len(PARAMETERS))

    def forward(self, x: Tensor) -> tuple[Tensor, Batch]:
        """Aligned sounds (n, window) -> the embedding, and what it says, logits where it says which."""
        z = self.encoder(x)
        heard = z + self.noise * torch.randn_like(z) if self.training else z
        return z, Batch(x, self.label(heard), self.kind(heard), self.share(heard), self.recipe(heard))


def losses(z: Tensor, said: Batch, true: Batch, price: float) -> dict[str, Tensor]:
    """What is wrong with an answer, and the price of the embedding's size, without which noise would be outshouted."""
    known = ~true.parameters.isnan()
    corrupt = true.kind > 0
    # A weak corruption is nearly none: were it told from none at any cost, distances would leap and then hardly grow.
    weight = torch.where(corrupt, true.share, 1.0)
    strengths = functional.one_hot(true.kind, len(NAMES)) * (corrupt * true.share)[:, None]
    return {
        "class": functional.cross_entropy(said.label, true.label),
        "corruption": (weight * functional.cross_entropy(said.kind, true.kind, reduction="none")).mean(),
        "strength": 10 * (said.share - strengths).square().sum(1).mean(),
        "parameters": (said.parameters - true.parameters)[known].square().mean(),
        "size": price * z.square().mean(),
    }


def train(sounds: Sounds, options: argparse.Namespace) -> Pupil:
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    pupil = Pupil(options.noise)
    optimizer = torch.optim.AdamW(pupil.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, options.steps, pct_start=0.1)
    smooth: dict[str, float] = {}
    with progress_bar("steps") as progress:
        task = progress.add_task("training", total=options.steps)
        for _ in range(options.steps):
            rows = torch.randint(len(sounds), (options.batch,), generator=generator)
            batch = Batch.of(sounds, rows, generator)
            parts = losses(*pupil(batch.x), batch, options.price)
            optimizer.zero_grad()
            sum(parts.values()).backward()
            optimizer.step()
            schedule.step()
            smooth = {name: 0.98 * smooth.get(name, x.item()) + 0.02 * x.item() for name, x in parts.items()}
            told = ", ".join(f"{name} {x:.2f}" for name, x in smooth.items())
            progress.update(task, advance=1, description=f"training: {told}")
    return pupil.eval()


@torch.no_grad()
def examined(pupil: Pupil, sounds: Sounds, options: argparse.Namespace) -> Table:
    """The table of what it tells of sounds that it was not trained on."""
    generator = torch.Generator().manual_seed(options.seed)
    parts = []
    for rows in torch.arange(len(sounds)).repeat(4).split(options.batch):  # each with four corruptions
        batch = Batch.of(sounds, rows, generator)
        said = pupil(batch.x)[1]
        share = said.share.gather(1, batch.kind[:, None])[:, 0]
        error = (said.parameters - batch.parameters).square().nanmean(1)
        right = (said.label.argmax(1) == batch.label, said.kind.argmax(1) == batch.kind)
        parts.append(torch.stack((batch.kind, *right, (share - batch.share).abs(), error), 1))
    told = torch.cat(parts)
    table = Table("corruption", "sounds", "class", "corruption", "strength's error", "parameters' error")
    for k, name in [*enumerate(NAMES), (None, "all")]:
        part = told if k is None else told[told[:, 0] == k]
        label, kind, share, error = part[:, 1:].mean(0).tolist()
        share = told[told[:, 0] > 0, 3].mean().item() if k is None else share
        wrong = "" if k == 0 else f"{share:.2f}"
        table.add_row(name, str(len(part)), f"{label:.1%}", f"{kind:.1%}", wrong, f"{error:.2f}")
    return table


@torch.no_grad()
def save(encoder: Encoder, path: Path, sounds: Sounds, steps: int, seed: int) -> None:
    """Writes the weights in half precision, such that the total variance over clean sounds is 1."""
    drums = torch.tensor([i for i, label in enumerate(sounds.labels) if label in RECIPES["drums"]])
    z = torch.cat([encoder(aligned(sounds.read(rows), Embedding.window)) for rows in drums.split(64)])
    scale = z.var(0).sum().rsqrt()
    weights = {k: v.clone() for k, v in encoder.state_dict().items()}
    for name in ("out.weight", "out.bias"):
        weights[name] *= scale
    weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(packed(weights, {"made": f"{steps} steps, seed {seed}"}))


# -------------------------------------------------------------------------------------------------- reactions


REACTIONS = {
    "hiss": (-70, -60, -40),
    "noise": (40, 20),
    "low pass": (10_000, 5000, 2000),
    "high pass": (60, 200),
    "tail cut": (240, 120, 60),
    "shuffled phases": (0.2, 1),
    "quantisation": (10, 8, 6),
    "clipping": (3, 12),
    "residue": (50, 35, 20),
}


def reactions(embeddings: Sequence[Embedding], options: argparse.Namespace) -> Table:
    """The table of Fréchet distances over their floors, means over `rounds` pairs of sets."""
    sets = rendered(
        "drums to compare", {"drums": 2 * options.rounds * options.sounds}, options.seed + 2, options.workers
    )
    # by turns: labels take turns too, and each set is to have all of them
    halves = [sets.read(torch.arange(len(sets)).view(-1, 2 * options.sounds)[r]) for r in range(options.rounds)]
    cases = [("none", 0.0), *((name, float(v)) for name, values in REACTIONS.items() for v in values)]
    columns = {embedding.name: torch.zeros(options.rounds, len(cases)) for embedding in embeddings}
    with progress_bar("cases") as progress:
        task = progress.add_task("reactions", total=options.rounds * len(cases))
        for r, sounds in enumerate(halves):
            a, b = sounds.split(options.sounds)
            real = {embedding.name: embedding(a) for embedding in embeddings}
            for i, (name, value) in enumerate(cases):
                generator = torch.Generator().manual_seed(options.seed)
                x = CORRUPTIONS[name].of(b, torch.full((len(b), 1), value), generator)
                for embedding in embeddings:
                    columns[embedding.name][r, i] = frechet(real[embedding.name], embedding(x))
                progress.advance(task)
    table = Table("corruption", "strength", *columns, title=f"Fréchet distance over floor, {options.sounds} sounds")
    for i, (name, value) in enumerate(cases):
        cells = [c[:, i].mean() if not i else (c[:, i] / c[:, 0]).mean() for c in columns.values()]
        shown = [f"{float(x):.3g}" for x in cells]
        table.add_row(
            name if i else "none: the floor itself", f"{value:g} {CORRUPTIONS[name].unit}" if i else "", *shown
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="optimisation steps (default 2000)")
    parser.add_argument("--out", type=Path, help="file to train weights for; without it nothing is trained")
    parser.add_argument("--weights", help="file to measure instead of the package's own")
    parser.add_argument("--drums", type=int, default=4000, help="built-in drums to train on (default 4000)")
    parser.add_argument("--synth", type=int, default=1500, help="synthesizer notes to train on (default 1500)")
    parser.add_argument("--held", type=int, default=300, help="sounds of either kind to examine it on (default 300)")
    parser.add_argument("--batch", type=int, default=64, help="sounds per step (default 64)")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (default 0.003)")
    parser.add_argument("--noise", type=float, default=1.0, help="noise on the embedding in training (default 1)")
    parser.add_argument("--price", type=float, default=0.01, help="weight of its mean square (default 0.01)")
    # Tests compare sounds of seed 5, and a data set is of seed 0 by default.
    parser.add_argument("--seed", type=int, default=101, help="of all; held-out sounds have the next (default 101)")
    parser.add_argument("--sounds", type=int, default=60, help="sounds in each set that is compared (default 60)")
    parser.add_argument("--rounds", type=int, default=4, help="pairs of sets (default 4)")
    parser.add_argument("--workers", type=int, default=2, help="processes that make sounds (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch: others, other weights (default 1)")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tables: list[Table] = []
    if options.out:
        counts = {"drums": options.drums, "synth": options.synth}
        sounds = rendered("sounds to train on", counts, options.seed, options.workers)
        held = rendered("sounds held out", dict.fromkeys(counts, options.held), options.seed + 1, options.workers)
        mean = sounds.parameters.nanmean(0)
        deviation = (sounds.parameters - mean).square().nanmean(0).sqrt()
        sounds, held = (replace(s, parameters=(s.parameters - mean) / deviation) for s in (sounds, held))
        pupil = train(sounds, options)
        tables.append(examined(pupil, held, options))
        save(pupil.encoder, options.out, held, options.steps, options.seed)
    tables.append(reactions([LogMel(), Learned(str(options.out) if options.out else options.weights)], options))
    for table in tables:
        Console(width=120).print(table)
    if options.markdown:
        options.markdown.write_text("\n".join(map(markdown, tables)), encoding="utf-8")


if __name__ == "__main__":
    main()
