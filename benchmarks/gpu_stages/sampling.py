"""Sampling: one sound and many, launched kernel by kernel, captured as CUDA graphs, and compiled before that.

Over the bare network: the same passes of it captured in one graph, with nothing in between. The noise of a sound is
drawn on the CPU, so that a seed sounds the same everywhere; what that costs is seen by the line that draws on the GPU.
On a CPU the capture is the one of the tests, which does the operations again one by one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from sampling import bare, model

from diffwave_sde import checkpoint
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.random import stream
from diffwave_sde.samplers.capture import Capture, CudaGraphs
from gpu_stages.work import Work, apart


def run(work: Work) -> None:
    rows = Rows(work)
    for half in (True, False):
        for batch in rows.batches:
            for way in ("eager", "captured"):
                name = f"{way}, {'bfloat16' if half else 'float32'}, {batch} at a time"
                work.part(name, lambda half=half, batch=batch, way=way: rows.measure(half, batch, way), 2)
        if half:
            batch = rows.batches[-1]
            work.part("noise drawn on the device", lambda: rows.measure(True, rows.batches[-1], "on the device"), 2)
            work.part("the loop's host", lambda: rows.same(), 2)
    work.part("compiled and captured", lambda: rows.measure(True, rows.batches[-1], "compiled"), 30)


class Rows:
    """The table."""

    def __init__(self, work: Work):
        self.work = work
        self.batches = [1, 2] if work.quick else [1, 16, 64, 256]
        self.fast = bfloat16_is_fast(work.device)

    def model(self, half: bool) -> checkpoint.LoadedModel:
        found = model(self.work.options.ckpt, self.work.device, half)
        if self.work.quick:
            found.module.sampler.steps = 3
        return found

    def graphs(self) -> Capture:
        """What captures here."""
        if self.work.cuda:
            return CudaGraphs(self.work.device)
        sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
        from tape import Tapes

        return Tapes()

    def sampling(self, found: checkpoint.LoadedModel, batch: int, way: str) -> Callable[[], torch.Tensor]:
        """A whole sampling."""
        module, length = found.module, 1_050 if self.work.quick else found.length
        label = torch.arange(batch) % len(found.labels)
        device = self.work.device if way == "on the device" else "cpu"
        draw = module.sample if way == "eager" else module.capture(graphs=self.graphs())

        @torch.inference_mode()
        def call() -> torch.Tensor:
            return draw(length, label, [stream(1, "sampling", i, device=device) for i in range(batch)])

        return call

    def measure(self, half: bool, batch: int, way: str) -> None:
        """A row."""
        work = self.work
        if half and not self.fast:
            work.skip(f"{way}, bfloat16, {batch} at a time", "bfloat16 is slow here")
            return
        if way == "compiled" and not work.cuda:
            work.skip("compiled and captured", "not on a CPU")
            return
        found = self.model(half)
        if way == "compiled":
            for one in (found.module.denoiser, found.module.denoiser.weak):
                if one is not None:
                    one.net.compile(dynamic=False)
        length = 1_050 if work.quick else found.length
        seconds = work.timed(self.sampling(found, batch, way), 2)
        floor = work.timed(self.floor(found, length, batch, way), 2)
        sound = batch * length / found.rate
        row = {"loop": way, "precision": "bfloat16" if half else "float32", "sounds at a time": batch}
        row |= {"ms": f"{1e3 * seconds:.1f}", "sounds/s": f"{batch / seconds:.4g}"}
        row |= {"real-time factor": f"{sound / seconds:.4g}", "over the bare network": f"{seconds / floor:.3f}"}
        title = f"{work.options.ckpt}, {found.module.sampler.steps} steps, guidance {found.module.guided() or 'none'}"
        work.stage.row(title, row)
        work.stage.figures[f"{way}, {row['precision']}, {batch}: real-time factor"] = sound / seconds
        work.stage.figures[f"{way}, {row['precision']}, {batch}: over the bare network"] = seconds / floor

    def floor(self, found: checkpoint.LoadedModel, length: int, batch: int, way: str) -> Callable[[], object]:
        """The network's passes alone: captured, but for the eager loop."""
        call = bare(found.module, length, batch)
        if way == "eager":
            return call
        graphs = self.graphs()
        with graphs.warm():
            call()
        replay = graphs(call)[1]
        return torch.inference_mode()(lambda: replay())

    def same(self) -> None:
        """Captured sounds are those of the loop."""
        found = self.model(False)
        eager, captured = (self.sampling(found, 2, way) for way in ("eager", "captured"))
        expected = eager()
        captured()
        error = apart(captured(), expected)
        self.work.stage.row(
            "Captured sounds against the loop's", {"precision": "float32", "relative error": f"{error:.1e}"}
        )
        self.work.check("captured sounds", error, 1e-4)
