"""The network: clips a second to train and to call, memory, share of the chip's peak, and what a step spends it on.

`train` is the loss and the gradient of `benchmarks/network.py`, without the optimizer; FLOPs are those of products and
convolutions, two for a multiplication and an addition. A peak that is not known by the chip's name is that of a large
product of matrices, which is measured in any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager

import torch
from network import Line, networks, rates
from torch.autograd import DeviceType
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from diffwave_sde import audio
from diffwave_sde.data.module import Batch
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.networks.blocks import Conv
from diffwave_sde.optim import MuonAdamW
from gpu_stages.work import Work, module_of, narrow

# Dense products, FLOP/s: float32, TF32, bfloat16. Source: NVIDIA's data sheets, halved where they count sparsity.
PEAKS = {
    "H200": (67e12, 494e12, 989e12),
    "H100 PCIe": (51e12, 378e12, 756e12),
    "H100": (67e12, 494e12, 989e12),
    "A100": (19.5e12, 156e12, 312e12),
}
PRODUCT = re.compile(
    r"^(?!.*(?:toNhwc|toNchw|transpose)).*(?:gemm|nvjet|cutlass|xmma|wgmma|conv(?!ert)|wgrad|dgrad|fprop|flash|fmha|"
    r"attention|addmm|baddbmm|\bb?mm\b|triton_tem)",
    re.I,
)
"""Names of kernels, and on a CPU of operators, that are products."""
MODES = ("reduce-overhead", "max-autotune-no-cudagraphs")


def run(work: Work) -> None:
    table = Speeds(work)
    work.part("large products", table.peaks, 2)
    first = ["base", "tiny"]
    for name in first:
        work.part(f"{name}, eager", lambda name=name: table.eager(name), 6)
    work.part("base, profile", lambda: kernels(work, table.batches["base"][0]), 4)
    work.part("optimizer", lambda: optimizer(work, table.batches["base"][0]), 3)
    work.part("drawing", lambda: drawing(work), 2)
    for name in first:
        mode = MODES[0]
        work.part(f"{name}, {mode}", lambda name=name, mode=mode: table.compiled(name, mode), 20)
    for name in table.nets:
        if name not in first:
            work.part(f"{name}, eager", lambda name=name: table.eager(name), 6)
    work.part("base, channels last", lambda: table.channels_last("base"), 3)
    work.part(f"base, {MODES[1]}", lambda: table.compiled("base", MODES[1]), 40)


def nets(work: Work) -> dict[str, dict]:
    """The networks, those of others where they are installed."""
    found = networks()
    return {name: narrow(found[name]) for name in ("base", "tiny", "crash")} if work.quick else found


def length(work: Work) -> int:
    """Samples of a clip."""
    return 1_050 if work.quick else audio.LENGTH


class Speeds:
    """The table of speeds."""

    def __init__(self, work: Work):
        self.work, self.nets = work, nets(work)
        self.length = length(work)
        self.batches = {name: [64, 256] for name in self.nets} | {"tiny": [64, 256, 1024], "crash": [16, 64]}
        if work.quick:
            self.batches = {name: [2] for name in self.nets}
        self.half = bfloat16_is_fast(work.device)
        self.peak: dict[str, float] = {}
        self.fitted: dict[str, list[int]] = {}

    def peaks(self) -> None:
        """What the chip can do: by its data sheet, and measured."""
        work = self.work
        known = next((v for k, v in PEAKS.items() if work.cuda and k in torch.cuda.get_device_name(work.device)), None)
        kinds = [("float32", False, False), ("TF32", False, True), ("bfloat16", True, False)]
        for i, (name, half, tf32) in enumerate(kinds):
            if (name == "TF32" and not work.cuda) or (half and not self.half):
                continue
            work.tf32(tf32)
            product, flops, copy, moved = rates(work.device, half)
            rate, bandwidth = flops / work.timed(product, repeats=3), moved / work.timed(copy, repeats=3)
            work.tf32(False)
            self.peak[name] = known[i] if known else rate
            sheet = f"{known[i] / 1e12:.0f}" if known else "not known"
            row = {"products in": name, "TFLOP/s, measured": f"{rate / 1e12:.3g}", "data sheet": sheet}
            work.stage.row("The chip", {**row, "copy, GB/s": f"{bandwidth / 1e9:.0f}"})

    def eager(self, name: str) -> None:
        """All batches in all precisions."""
        for batch in self.batches[name]:
            for kind in ("float32", "TF32", "bfloat16"):
                if kind in self.peak:
                    self.fitting(name, batch, kind)

    def fitting(self, name: str, batch: int, kind: str) -> None:
        """A row, if there is memory for it."""
        try:
            self.row(name, batch, kind, kind, self.line(name, batch, kind))
            if kind == "bfloat16":
                self.fitted.setdefault(name, []).append(batch)
        except torch.OutOfMemoryError:
            self.work.skip(f"{name}, batches of {batch}, {kind}", "more memory than there is")

    def line(self, name: str, batch: int, kind: str) -> Line:
        return Line(self.nets[name], batch, kind == "bfloat16", self.work.device, self.length)

    def row(self, name: str, batch: int, kind: str, title: str, line: Line) -> None:
        """Measure a network."""
        work = self.work
        plain = Line(self.nets[name], 1, False, work.device, self.length)
        with FlopCounterMode(display=False) as called:
            plain.sample()
        with FlopCounterMode(display=False) as trained:
            plain.train()
        del plain
        work.tf32(kind == "TF32")
        if work.cuda:
            torch.cuda.reset_peak_memory_stats(work.device)
        rounds = 2 if work.quick else 3
        train, call = (batch / work.timed(marked(f), rounds) for f in (line.train, line.sample))
        work.tf32(False)
        memory = f"{torch.cuda.max_memory_allocated(work.device) / 2**30:.2f}" if work.cuda else ""
        share = trained.get_total_flops() * train / self.peak[kind]
        cells = {"network": name, "batch": batch, "precision": title, "train, clips/s": f"{train:.4g}"}
        cells |= {"call, clips/s": f"{call:.4g}", "peak memory, GiB": memory}
        cells |= {
            "GFLOP a clip and call": f"{called.get_total_flops() / 1e9:.2f}",
            "training, share of peak": f"{share:.1%}",
        }
        work.stage.row("Speed", cells)
        work.stage.figures[f"{name}, {batch}, {title}: clips/s to train"] = train

    def compiled(self, name: str, mode: str) -> None:
        """bfloat16 through torch.compile, at the middle one of the batches that there is memory for."""
        batches = self.fitted.get(name, self.batches[name])
        batch, kind = batches[len(batches) // 2], "bfloat16"
        if not self.work.cuda:
            self.work.skip(f"{name}, {mode}", "not on a CPU")
            return
        line = self.line(name, batch, kind)
        line.denoiser.net.compile(dynamic=False, mode=mode)
        self.row(name, batch, kind, f"{kind}, compiled ({mode})", line)
        torch.compiler.reset()

    def channels_last(self, name: str) -> None:
        """bfloat16 with the convolutions in two dimensions, channels last in memory."""
        if not self.half:
            self.work.skip(f"{name}, channels last", "bfloat16 is slow here")
            return
        batch = self.batches[name][0]
        with last():
            self.row(
                name, batch, "bfloat16", "bfloat16, convolutions channels last", self.line(name, batch, "bfloat16")
            )


def marked(call: Callable[[], object]) -> Callable[[], object]:
    """A call that begins a new step: what was captured before it may be written over."""

    def marked_call() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        call()

    return marked_call


@contextmanager
def last():
    """Within it convolutions over frames are taken as those of pictures one line high, channels last."""
    plain = Conv.forward

    def forward(self: Conv, x: torch.Tensor) -> torch.Tensor:
        x, weight = (a.unsqueeze(2).contiguous(memory_format=torch.channels_last) for a in (x, self.weight))
        options = [(first, *own) for first, own in ((1, self.stride), (0, self.padding), (1, self.dilation))]
        return functional.conv2d(x, weight, self.bias, *options, self.groups).squeeze(2)

    Conv.forward = forward
    try:
        yield
    finally:
        Conv.forward = plain


def kernels(work: Work, batch: int) -> None:
    """The ten most expensive kernels of a training step of `base`, and the part that is no product."""
    line = Line(nets(work)["base"], batch, bfloat16_is_fast(work.device), work.device, length(work))
    for _ in range(2):
        line.train()
    steps = 1 if work.quick else 3
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * work.cuda) as found:
        for _ in range(steps):
            line.train()
        work.wait()
    events = [e for e in found.key_averages() if (e.device_type == DeviceType.CUDA) == work.cuda]
    spent = {e.key: (e.self_device_time_total if work.cuda else e.self_cpu_time_total, e.count) for e in events}
    total = sum(time for time, _ in spent.values())
    products = sum(time for name, (time, _) in spent.items() if PRODUCT.search(name))
    for name, (time, count) in sorted(spent.items(), key=lambda item: -item[1][0])[:10]:
        short = re.sub(r"<.*", "", name.removeprefix("void "))[:70]
        row = {"kernel": short, "launches a step": count // steps, "ms a step": f"{time / steps / 1e3:.3f}"}
        work.stage.row(
            f"Training step of base, batches of {batch}",
            {**row, "share": f"{time / total:.1%}", "product": "yes" if PRODUCT.search(name) else ""},
        )
    work.stage.figures["base: share of a training step's kernels that is no product"] = 1 - products / total
    work.stage.row(
        "What a step of base is", {"products": f"{products / total:.1%}", "the rest": f"{1 - products / total:.1%}"}
    )


def optimizer(work: Work, batch: int) -> None:
    """What the optimizers add to the loss and the gradient of a step."""
    names = ["tiny"] if work.quick else ["base", "tiny"]
    for name in names:
        line = Line(nets(work)[name], batch, bfloat16_is_fast(work.device), work.device, length(work))
        train = work.timed(line.train)
        parameters = list(line.denoiser.parameters())
        kinds = {
            "MuonAdamW": MuonAdamW(parameters, iterations=3),
            "AdamW, fused": torch.optim.AdamW(parameters, fused=True),
            "AdamW": torch.optim.AdamW(parameters, fused=False, foreach=True),
        }
        for kind, one in kinds.items():
            took = work.timed(one.step)
            row = {"network": name, "optimizer": kind, "ms": f"{1e3 * took:.2f}"}
            work.stage.row(
                f"Optimizers, batches of {batch}", {**row, "share of the step": f"{took / (took + train):.1%}"}
            )


def drawing(work: Work) -> None:
    """What the times and the noise of a training step cost, drawn clip by clip."""
    module = module_of("tiny", small=work.quick).to(work.device)
    for count in [4] if work.quick else [64, 256]:
        label = torch.zeros(count, dtype=torch.long, device=work.device)
        batch = Batch(torch.zeros(count, 1, length(work), device=work.device), label, label)
        took = work.timed(lambda batch=batch: module.prepare_step(batch, 1))
        work.stage.row("Drawing times and noise", {"batch": count, "ms a step": f"{1e3 * took:.2f}"})
