"""What a kit is, whatever program plays it: instruments on keys, each of samples by velocity and in turn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Sample:
    """One WAV file of an instrument.

    file: its name, without a folder.
    low, high: velocities that play it, both included, 1 to 127.
    turn: its place among the samples of the same velocities, which are played in turn; from 1 on.
    """

    file: str
    low: int = 1
    high: int = 127
    turn: int = 1


@dataclass(frozen=True)
class Instrument:
    """What a key plays.

    name: as a musician reads it, such as "Kick 1".
    label: class of the model.
    key: MIDI note, 0 to 127.
    samples: by velocity, then by turn; each layer has the same number of turns.
    part: what the key stands for on the General MIDI drum map, such as "closed hat"; "" for nothing of its own.
    choke: number of the group in which a hit cuts off what sounds; None for none.
    """

    name: str
    label: str
    key: int
    samples: tuple[Sample, ...]
    part: str = ""
    choke: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.key <= 127:
            raise ValueError(f"{self.name}: key {self.key} must lie between 0 and 127")
        if not self.samples:
            raise ValueError(f"{self.name}: an instrument has at least one sample")
        layers = self.layers
        ends = [(layer[0].low, layer[0].high) for layer in layers]
        whole = ends[0][0] == 1 and ends[-1][1] == 127 and all(a[1] + 1 == b[0] for a, b in pairwise(ends))
        turns = [[sample.turn for sample in layer] for layer in layers]
        if not whole or any(turn != list(range(1, self.turns + 1)) for turn in turns):
            raise ValueError(f"{self.name}: the layers must share the velocities 1 to 127 and have the same turns")

    @property
    def title(self) -> str:
        """The name with what the key stands for: "Closed Hat (Cymbal 1)"."""
        told = not self.part or self.part in self.name.lower()
        return self.name if told else f"{self.part.title()} ({self.name})"

    @property
    def layers(self) -> list[tuple[Sample, ...]]:
        """The samples of each range of velocities, the softest first."""
        ranges = dict.fromkeys((sample.low, sample.high) for sample in self.samples)
        return [tuple(s for s in self.samples if (s.low, s.high) == one) for one in ranges]

    @property
    def turns(self) -> int:
        """How many samples a range of velocities plays in turn."""
        return max(sample.turn for sample in self.samples)


@dataclass(frozen=True)
class Kit:
    """Instruments that belong together.

    name: of the kit.
    instruments: each on a key of its own.
    about: where it comes from, a line.
    licence: who may do what with it.
    """

    name: str
    instruments: tuple[Instrument, ...]
    about: str = ""
    licence: str = "not stated"

    def __post_init__(self) -> None:
        for what, values in (
            ("keys", [one.key for one in self.instruments]),
            ("files", [name.casefold() for name in self.files]),
        ):
            if len(set(values)) < len(values):
                twice = next(value for value in values if values.count(value) > 1)
                raise ValueError(f"kit {self.name}: {twice} stands twice among the {what}")

    @property
    def files(self) -> list[str]:
        """The names of the WAV files."""
        return [sample.file for instrument in self.instruments for sample in instrument.samples]


def layered(files: list[str], layers: int = 1) -> tuple[Sample, ...]:
    """Samples of files, from the softest to the hardest hit: layers of equal shares of the velocities, then turns.

    Args:
        files: names, as many as layers times turns.
        layers: ranges of velocities.
    """
    turns = len(files) // layers
    if layers > 127 or not turns or turns * layers != len(files):
        raise ValueError(f"{len(files)} files cannot be shared out among {layers} layers")
    ends = [round(127 * i / layers) for i in range(layers + 1)]
    return tuple(
        Sample(files[layer * turns + turn], ends[layer] + 1, ends[layer + 1], turn + 1)
        for layer in range(layers)
        for turn in range(turns)
    )
