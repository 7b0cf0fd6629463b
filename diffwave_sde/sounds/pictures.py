"""Pictures: spectrograms at levels and frequencies that compare, beside the waveforms; and where noise levels lie."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffwave_sde.atomic import atomic_write
from diffwave_sde.audio import RATE
from diffwave_sde.names import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#807a72"
"""Of lines and text: as easy to read on a light page as on a dark one, since spectrograms have no ground."""


def spectrogram(x: Tensor, rate: int = RATE, rows: int = 192, hop: int = 128) -> Tensor:
    """Levels of a waveform over time and log frequency.

    Args:
        x: waveforms (..., T), T any
        rows: frequencies, spaced evenly in log from 30 Hz to half the rate
        hop: samples between columns

    Returns:
        (..., rows, columns), dB re a full-scale sine, at least -100
    """
    size = 1024  # 23 ms: tells a kick's pitch, still places an attack
    hann = torch.hann_window(size, dtype=x.dtype, device=x.device)
    # zero-padded fourfold, so that a log scale can be read off by linear interpolation even at 100 Hz
    bins = torch.stft(
        torch.nn.functional.pad(x.reshape(-1, x.shape[-1]), (size, size)),
        4 * size,
        hop,
        win_length=size,
        window=hann,
        pad_mode="constant",
        return_complex=True,
    )
    magnitude = bins[..., size // hop : -(size // hop)].abs() * (2 / hann.sum())
    hz = torch.logspace(math.log10(30.0), math.log10(rate / 2 * 0.999), rows, dtype=torch.float64)
    at = hz * 4 * size / rate
    i = at.long()
    w = (at - i).to(x)[:, None]
    level = 20 * torch.log10((magnitude[:, i] * (1 - w) + magnitude[:, i + 1] * w).clamp_min(1e-5))
    return level.reshape(*x.shape[:-1], rows, -1)


def spectrogram_png(
    path: str | os.PathLike, clips: Tensor, titles: Sequence[str] | None = None, rate: int = RATE
) -> None:
    """Draws waveforms and their spectrograms in one picture, -100 to 0 dB, so that pictures compare.

    Args:
        path: PNG file; appears whole or not at all
        clips: waveforms (n, T), at the level to be drawn
        titles: one per clip; None draws none
        rate: sample rate, Hz

    Raises:
        ValueError: if `clips` is not (n, T) with n >= 1, or the titles do not match
        OSError: if the file cannot be written
    """
    # the object-oriented interface: pyplot keeps figures alive and wants a main thread
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if clips.ndim != 2 or not clips.numel():
        raise ValueError(f"{path}: clips are (n, T) with n >= 1, not {tuple(clips.shape)}")
    titles = [""] * len(clips) if titles is None else list(titles)
    if len(titles) != len(clips):
        raise ValueError(f"{path}: {len(titles)} titles for {len(clips)} clips")
    clips = clips.detach().to("cpu", torch.float32).nan_to_num(0.0)
    n, samples = clips.shape
    columns = min(n, max(1, math.ceil(math.sqrt(n * 1.4))))
    lines = math.ceil(n / columns)
    width, height = 2.6 * columns + 1.3, 2.5 * lines + 0.7
    figure = Figure(figsize=(width, height), dpi=100, facecolor="none")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        lines, columns, left=0.7 / width, right=1 - 0.8 / width, bottom=0.5 / height, top=1 - 0.3 / height,
        hspace=0.3, wspace=0.12,
    )  # fmt: skip
    span = samples / rate * 1e3
    low, top = math.log10(30.0), math.log10(rate / 2)
    ticks = [hz for hz in (100, 1_000, 10_000) if hz < rate / 2]
    image = None
    for k, (clip, title) in enumerate(zip(clips, titles, strict=True)):
        line, column = divmod(k, columns)
        above, below = grid[line, column].subgridspec(2, 1, height_ratios=[1, 3], hspace=0.04)
        wave, picture = figure.add_subplot(above), figure.add_subplot(below)
        wave.plot(np.linspace(0, span, samples), clip.numpy(), linewidth=0.5, color=INK)
        wave.set(xlim=(0, span), ylim=(-1, 1), xticks=[], yticks=[])
        wave.set_title(drawable(title), fontsize=8, pad=3, parse_math=False, color=INK)
        image = picture.imshow(
            spectrogram(clip, rate).numpy(), origin="lower", aspect="auto", extent=(0, span, low, top),
            vmin=-100, vmax=0, cmap="magma", interpolation="nearest",
        )  # fmt: skip
        picture.set_yticks([math.log10(hz) for hz in ticks])
        picture.set_yticklabels([f"{hz:g}" if hz < 1000 else f"{hz // 1000}k" for hz in ticks] if not column else [])
        picture.tick_params(labelsize=7)
        if k + columns >= n:
            picture.set_xlabel("ms", fontsize=7, labelpad=1)
        else:
            picture.set_xticklabels([])
        if not column:
            picture.set_ylabel("Hz", fontsize=7, labelpad=1)
        wave.set_facecolor("none")
        for axes in (wave, picture):
            _in_ink(axes)
    bar = figure.add_axes((1 - 0.6 / width, 0.5 / height, 0.12 / width, 1 - 0.8 / height))
    figure.colorbar(image, cax=bar)
    bar.set_title("dBFS", fontsize=7, color=INK)
    bar.tick_params(labelsize=7)
    _in_ink(bar)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _in_ink(axes: Axes) -> None:
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def noise_levels_png(path: str | os.PathLike, grids: Mapping[str, Mapping[str, Tensor]], marked: str) -> None:
    """Draws the noise levels at which a network is called, a panel for each number of steps and a row for each grid.

    Args:
        path: PNG file; appears whole or not at all
        grids: a panel's title -> a grid's name -> noise over signal, σ (n,)
        marked: the name of the grid that has a colour of its own

    Raises:
        OSError: if the file cannot be written
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.7 + 1.5 * len(grids)), dpi=120, layout="constrained")
    panels = figure.subplots(len(grids), 1, squeeze=False)[:, 0]
    for (title, rows), axes in zip(grids.items(), panels, strict=True):
        for place, (name, levels) in enumerate(rows.items()):
            axes.plot(levels, [-place] * len(levels), "o", ms=4, color="C3" if name == marked else "C0")
        axes.set_yticks([-i for i in range(len(rows))], list(rows), fontsize=7)
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.grid(alpha=0.3, which="both")
        axes.set_title(title, fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
    panels[-1].set_xlabel("noise over signal, σ = 1 / √SNR", fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def drawable(text: str) -> str:
    """Text as the font of the pictures can draw it: of what it has no glyph for stands the code point, \\u5927."""
    return "".join(c if ord(c) in _glyphs() else _code(c) for c in printable(text))


def _code(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()


@lru_cache
def _glyphs() -> frozenset[int]:
    """The code points that the font of the pictures has."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
