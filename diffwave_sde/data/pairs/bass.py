"""Arrangements with and without their bass: drums and chords are the context, the bass is the part.

The bass plays the root of each chord, and begins a note wherever the kick does. So a part follows from its context but
for its sound, which is its class: what a model has learned of the context can be counted.

    SeedSequence(seed, "bass", index) -> Philox -> score -> drums, chords, bass -> one gain for both
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from diffwave_sde.data.builtin import drums, synth
from diffwave_sde.data.builtin.recipe import Range, draw
from diffwave_sde.data.builtin.waves import Clock, attack, block_dc, decay, unit

COLLECTION = "bass"
VOICES = ("saw", "string", "sub")
"""The classes: the sound of the bass, which no context tells."""

PEAK = 0.9  # of context and part together

# Sixteenths of a bar at which the kick, the snare and the cymbal play.
STYLES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "floor": ((0, 4, 8, 12), (4, 12), (2, 6, 10, 14)),
    "rock": ((0, 8, 10), (4, 12), (0, 2, 4, 6, 8, 10, 12, 14)),
    "funk": ((0, 3, 7, 10), (4, 12), tuple(range(16))),
    "half": ((0, 6, 11), (8,), (0, 4, 8, 12)),
    "push": ((0, 6, 8, 14), (4, 12), (0, 2, 4, 6, 8, 10, 12, 14)),
}

MAJOR, MINOR = (0, 4, 7), (0, 3, 7)
# Roots in semitones above the key's, and the chord on each.
PROGRESSIONS: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...] = (
    ((0, MAJOR), (7, MAJOR), (9, MINOR), (5, MAJOR)),
    ((0, MAJOR), (9, MINOR), (5, MAJOR), (7, MAJOR)),
    ((2, MINOR), (7, MAJOR), (0, MAJOR), (9, MINOR)),
    ((0, MINOR), (8, MAJOR), (3, MAJOR), (10, MAJOR)),
    ((0, MINOR), (5, MINOR), (10, MAJOR), (3, MAJOR)),
)
BACKING = ("pad", "keys", "organ", "pluck")  # pluck is an arpeggio, the others hold the chord

RANGES = {
    "tempo_bpm": Range(80.0, 160.0, "uniform", "quarter notes a minute"),
    "key": Range(0, 11, "integer", "semitones of the key's root above C"),
    "style_index": Range(0, len(STYLES) - 1, "integer", "which drum pattern"),
    "progression_index": Range(0, len(PROGRESSIONS) - 1, "integer", "which chords"),
    "backing_index": Range(0, len(BACKING) - 1, "integer", "what plays the chords"),
    "chord_beats": Range(1, 2, "integer", "pairs of beats that a chord lasts"),
    "start_beats": Range(0.0, 16.0, "uniform", "where in the arrangement the window begins, beats"),
    "drums_db": Range(-3.0, 3.0, "uniform", "level of the drums against the chords"),
    "part_db": Range(-3.0, 3.0, "uniform", "level of the bass against the rest"),
}


@dataclass(frozen=True)
class Note:
    """start, end: seconds from the window's first sample; midi: pitch."""

    start: float
    end: float
    midi: int


@dataclass(frozen=True)
class Score:
    """What a window of an arrangement plays.

    parameters: every drawn number.
    kicks: seconds, from the window's first sample.
    chords: the notes of the backing.
    bass: those of the part.
    hits: (voice of the drums, seconds, level) of each stroke.
    """

    parameters: dict[str, float]
    chords: tuple[Note, ...]
    bass: tuple[Note, ...]
    hits: tuple[tuple[str, float, float], ...]

    @property
    def kicks(self) -> list[float]:
        return [at for voice, at, _ in self.hits if voice == "kick"]


def _streams(index: int, seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    root = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(COLLECTION.encode()), index))
    choices, noise = (np.random.Generator(np.random.Philox(child)) for child in root.spawn(2))
    return choices, noise


def label(index: int) -> str:
    """The class of arrangement number `index`."""
    return VOICES[index % len(VOICES)]


def score(index: int, seed: int, seconds: float) -> Score:
    """What arrangement number `index` of a seed plays in `seconds`."""
    p = draw(RANGES, _streams(index, seed)[0])
    beat = 60 / p["tempo_bpm"]
    kick, snare, cymbal = list(STYLES.values())[int(p["style_index"])]
    progression = PROGRESSIONS[int(p["progression_index"])]
    held = 2 * int(p["chord_beats"])  # beats
    first, last = p["start_beats"], p["start_beats"] + seconds / beat

    def at(beats: float) -> float:
        return (beats - first) * beat

    # From two bars before the window, whose notes may still sound in it.
    bars = range(max(0, int(first // 4) - 2), int(last // 4) + 1)
    hits = [
        (voice, at(4 * bar + step / 4), 1.0 if step % 4 == 0 else 0.7)
        for bar in bars
        for voice, steps in (("kick", kick), ("snare", snare), ("cymbal", cymbal))
        for step in steps
    ]

    def chord(beats: float) -> tuple[int, tuple[int, ...]]:
        root, shape = progression[int(beats // held) % len(progression)]
        return (root + int(p["key"])) % 12, shape

    chords, step = [], held
    arpeggio = BACKING[int(p["backing_index"])] == "pluck"
    for bar in bars:
        if arpeggio:
            for eighth in range(8):
                beats = 4 * bar + eighth / 2
                root, shape = chord(beats)
                midi = 48 + root + (*shape, 12)[eighth % 4]
                chords.append(Note(at(beats), at(beats + 0.5), midi))
        else:
            for beats in range(4 * bar, 4 * bar + 4, step):
                root, shape = chord(beats)
                chords += [Note(at(beats), at(beats + 0.95 * held), 48 + root + tone) for tone in shape]
    onsets = [4 * bar + step / 4 for bar in bars for step in kick]
    bass = []
    for begin, following in zip(onsets, [*onsets[1:], onsets[-1] + 2], strict=True):
        root = chord(begin)[0]
        # Not past the change of a chord.
        end = min(begin + 0.85 * (following - begin), begin + 1.5, (begin // held + 1) * held)
        bass.append(Note(at(begin), at(end), 28 + (root - 4) % 12))  # E1 to Eb2
    return Score(
        p,
        tuple(n for n in chords if n.start < seconds),
        tuple(n for n in bass if n.start < seconds),
        tuple(hit for hit in hits if hit[1] < seconds),
    )


def render(index: int, seed: int, rate: int, length: int) -> tuple[np.ndarray, np.ndarray, Score]:
    """Arrangement number `index`: the context and the part, (length,) each, float64, and what they play.

    A pure function of its arguments. Both have one gain, so that they are heard together as they are.

    Args:
        index: 0, 1, 2, ... without an upper end.
        seed: another seed is another endless collection.
        rate: Hz, at least 8,000.
        length: samples.

    Raises:
        ValueError: if a number is out of its range.
    """
    if index < 0 or seed < 0 or rate < 8_000 or length < 1:
        raise ValueError(f"need index, seed >= 0, rate >= 8000 Hz, length >= 1: {index}, {seed}, {rate}, {length}")
    told, noise = score(index, seed, length / rate), _streams(index, seed)[1]
    p = told.parameters
    beats, backing = np.zeros(length), np.zeros(length)
    for voice in ("kick", "snare", "cymbal"):
        recipe = drums.RECIPES[voice][int(noise.integers(len(drums.RECIPES[voice])))]
        stroke = unit(recipe.voice(draw(recipe.ranges, noise), Clock(rate, round(0.5 * rate)), noise))
        for name, at, level in told.hits:
            if name == voice:
                _add(beats, stroke * level * {"kick": 1.0, "snare": 0.6, "cymbal": 0.2}[voice], at, rate)
    kind = BACKING[int(p["backing_index"])]
    _play(backing, told.chords, _voice(synth.RECIPES[kind][0], noise), rate)
    part = np.zeros(length)
    _play(part, told.bass, _bass(label(index), noise), rate)
    context = _level(beats, 10 ** (p["drums_db"] / 20)) + _level(backing, 1.0)
    part = _level(part, 1.2 * 10 ** (p["part_db"] / 20))
    gain = PEAK / max(np.abs(context + part).max(), np.abs(context).max(), np.abs(part).max(), 1e-9)
    return context * gain, part * gain, told


def _level(wave: np.ndarray, level: float) -> np.ndarray:
    """The wave with its mean square that of `level`; silence stays silence."""
    return wave * (level / max(math.sqrt(float(np.square(wave).mean())), 1e-6)) if wave.any() else wave


def _add(into: np.ndarray, wave: np.ndarray, at: float, rate: int) -> None:
    """Adds a wave that begins `at` seconds, as much of it as there is room for."""
    start = round(at * rate)
    first, last = max(start, 0), min(start + len(wave), len(into))
    if last > first:
        into[first:last] += wave[first - start : last - start]


def _play(into: np.ndarray, notes: tuple[Note, ...], voice, rate: int) -> None:
    """Adds notes; a note of the same pitch and duration sounds the same each time."""
    made: dict[tuple[int, int], np.ndarray] = {}
    for note in notes:
        held = round((note.end - note.start) * rate)
        wave = made.get((note.midi, held))
        if wave is None:
            clock = Clock(rate, held + round(0.12 * rate))
            # What still sounds then ends within a few milliseconds, without a click.
            tail = np.clip((clock.length - np.arange(clock.length)) / (0.03 * rate), 0, 1)
            wave = made[note.midi, held] = block_dc(voice(note.midi, held / rate, clock), clock) * tail
        _add(into, wave, note.start, rate)


def _voice(recipe, noise: np.random.Generator):
    """A voice of the synthesizer, drawn once, as a function of (pitch, seconds held, clock)."""
    p, seed = draw(recipe.ranges, noise), int(noise.integers(2**31))

    def sound(midi: int, held: float, clock: Clock) -> np.ndarray:
        own = {**p, "midi_note": float(midi), "gate_s": held, "release_s": min(p.get("release_s", 0.08), 0.1)}
        own["vibrato_cents"] = min(p.get("vibrato_cents", 0.0), 5.0)
        return recipe.voice(own, clock, np.random.default_rng([seed, midi]))

    return sound


def _bass(kind: str, noise: np.random.Generator):
    """The part's voice, as of `_voice`."""
    if kind == "saw":
        return _voice(synth.RECIPES["bass"][0], noise)
    if kind == "string":
        return _voice(synth.RECIPES["pluck"][0], noise)
    second, seconds = noise.uniform(0.05, 0.3), noise.uniform(1.0, 4.0)

    def sub(midi: int, held: float, clock: Clock) -> np.ndarray:
        phase = 2 * math.pi * synth.pitch(midi) * clock.t
        wave = np.sin(phase) + second * np.sin(2 * phase)
        return wave * attack(clock.t, 0.004) * decay(clock.t, seconds) * decay(np.maximum(clock.t - held, 0), 0.08)

    return sub
