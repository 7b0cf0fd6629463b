"""Networks with all that is around them as graphs of tensors, for PyTorch's own runtime and for onnxruntime.

A denoiser's answers D(u, t): from u (B, S, 1, T) float32, t (B,) float64 and label (B,) int64, negative for none, D
(B, 1, T). A stage of a cascade that goes up in rate is told two more: audio (B, 1, M) float32, what the stage before
handed over, and level (B,) float32, its noise level. A decoder makes x (B, 1, T) of latents, z (B, 1, N). B is open, T
is fixed.

How sounds come of them: `table`.
"""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from diffwave_sde.autoencoder import Latents
from diffwave_sde.cascade import CascadeModel, StageDenoiser
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.deploy import cosine
from diffwave_sde.model import SoundModel


class Graph(nn.Module, ABC):
    """A function of tensors alone, all of them with a batch axis.

    inputs: names of what it takes.
    output: name of what it gives.
    """

    inputs: tuple[str, ...]
    output: str

    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """What it takes, for two sounds."""

    def plain(self) -> Graph:
        """The same in operators that every runtime has, and does well."""
        return self


class DenoiserGraph(Graph):
    """A denoiser of sounds, or latents, of `length` numbers.

    Args:
        denoiser: the denoiser.
        length: T.
        weight: of the guidance that its network is told, if it is.
    """

    inputs, output = ("u", "t", "label"), "D"

    def __init__(self, denoiser: Denoiser, length: int, weight: float = 1.0):
        super().__init__()
        self.length, self.weight = length, weight if denoiser.net.guidance else None
        # Without the weak one, which is no part of D; it has a graph of its own.
        self.denoiser = _altered(denoiser, weak=None)

    def example(self) -> tuple[Tensor, ...]:
        return (
            torch.zeros(2, self.denoiser.sde.blocks, 1, self.length),
            torch.ones(2, dtype=torch.float64),
            torch.tensor([0, -1]),
        )

    def forward(self, u: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """u (B, S, 1, T), t (B,), label (B,) -> D (B, 1, T)."""
        told = None if self.weight is None else u.new_full((u.shape[0],), self.weight)
        return self.denoiser(u, t, Condition(label=label, guidance=told))


class StageGraph(Graph):
    """A stage of a cascade that goes up from a sound of `band` samples to one of `length`."""

    inputs, output = ("u", "t", "label", "audio", "level"), "D"

    def __init__(self, stage: StageDenoiser, length: int, band: int):
        super().__init__()
        self.stage, self.length, self.band = stage, length, band

    def example(self) -> tuple[Tensor, ...]:
        return (
            torch.zeros(2, 1, 1, self.length),
            torch.ones(2, dtype=torch.float64),
            torch.tensor([0, -1]),
            torch.zeros(2, 1, self.band),
            torch.ones(2),
        )

    def plain(self) -> StageGraph:
        """The same, its cosine transforms without an FFT."""
        there, back = cosine.Cosine({self.length, self.band}), cosine.Cosine({self.length}, inverse=True)
        return StageGraph(_altered(self.stage, dct=there, idct=back), self.length, self.band)

    def forward(self, u: Tensor, t: Tensor, label: Tensor, audio: Tensor, level: Tensor) -> Tensor:
        """u (B, 1, 1, T), t (B,), label (B,), audio (B, 1, M), level (B,) -> D (B, 1, T)."""
        return self.stage(u, t, Condition(label=label, audio=audio, level=level))


class DecoderGraph(Graph):
    """The decoder of a model of latents, for sounds of `length` samples."""

    inputs, output = ("z",), "x"

    def __init__(self, latents: Latents, length: int):
        super().__init__()
        self.latents, self.length = latents, length

    def example(self) -> tuple[Tensor, ...]:
        return (torch.zeros(2, 1, self.latents.length(self.length)),)

    def forward(self, z: Tensor) -> Tensor:
        """z (B, 1, N), each channel of zero mean and unit deviation -> x (B, 1, T)."""
        return self.latents.decode(z, self.length)


def _altered(denoiser: BaseDenoiser, **parts: nn.Module | None) -> BaseDenoiser:
    """A copy that has the weights in common, and some parts of its own."""
    other = copy.copy(denoiser)
    other._modules = dict(denoiser._modules)
    for name, part in parts.items():
        setattr(other, name, part)
    return other


def names(model: SoundModel) -> list[str]:
    """What the graphs of a model are called: base, middle and top of a cascade; else model, weak and decoder."""
    if isinstance(model, CascadeModel):
        return list(model.names)
    guidance = model.guided()
    led = guidance is not None and guidance.auto != 1
    return ["model", *["weak"] * led, *["decoder"] * (model.latents is not None)]


def graphs(model: SoundModel, length: int) -> Iterator[tuple[str, Graph]]:
    """The graphs of a model by their names.

    Args:
        model: whose they are.
        length: samples of its sounds.

    Raises:
        ValueError: if a stage of a cascade was never trained, or cannot be of such a length.
    """
    guidance = model.guided()
    weight = guidance.weight if guidance else 1.0
    if isinstance(model, CascadeModel):
        lengths = _lengths(model, length)
        yield model.names[0], DenoiserGraph(model.denoiser, lengths[0], weight)
        for k, name in enumerate(model.names[1:], 1):
            yield name, StageGraph(model.stages[k], lengths[k], lengths[k - 1])
        return
    state = length if model.latents is None else model.latents.length(length)
    parts = {
        "model": lambda: DenoiserGraph(model.denoiser, state, weight),
        "weak": lambda: DenoiserGraph(model.denoiser.weak, state, weight),
        "decoder": lambda: DecoderGraph(model.latents, length),
    }
    yield from ((name, parts[name]()) for name in names(model))


def _lengths(model: CascadeModel, length: int) -> tuple[int, ...]:
    """The samples of each stage."""
    if model.missing:
        raise ValueError(f"the stage {model.missing[0]} was never trained: train all stages first")
    lengths = model.lengths(length)
    if all(map(cosine.fits, lengths)):
        return lengths
    longer = next(n for n in range(length, 2 * length) if all(map(cosine.fits, model.lengths(n))))
    raise ValueError(
        f"--length {length}: a graph splits it into bands by matrices, which would be too large: choose --length "
        f"{model.lengths(longer)[-1]}"
    )


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """Its program, in float32, for any number of sounds at once."""
    many = {0: torch.export.Dim("batch", min=1, max=2**16)}
    example = graph.eval().example()
    with torch.no_grad():
        graph(*example)  # once in earnest, so that what a process keeps for later is no tensor of the trace
        return torch.export.export(graph, example, dynamic_shapes=(many,) * len(example))


def save_program(graph: Graph, file: Path) -> None:
    """Writes what `torch.export.load` reads, on any machine with PyTorch."""
    torch.export.save(trace(graph), file)


def save_onnx(graph: Graph, file: Path) -> None:
    """Writes an ONNX file, weights included.

    Raises:
        ValueError: without the packages that it takes.
    """
    try:
        import onnxscript  # noqa: F401  torch.onnx writes with it
    except ImportError as error:
        raise ValueError(
            f"ONNX needs a package that is not here ({error}): pip install 'diffwave-sde[onnx]'"
        ) from error
    # Of operators that a network of ours has not, and of those that are left as they are.
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    program = torch.onnx.export(
        trace(graph.plain()),
        dynamo=True,
        input_names=list(graph.inputs),
        output_names=[graph.output],
        verbose=False,
    )
    program.save(str(file), external_data=False)
