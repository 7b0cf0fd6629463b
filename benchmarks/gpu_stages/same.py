"""Same answers: loss, gradient and sounds against the CPU, and that nothing in the loops waits for the GPU.

The reference is float32 on the CPU, one clip at a time, from the same weights and the same draws. A relative error is
the root mean square of the difference over that of the reference. bfloat16 may be off by twice what it is off by on the
CPU, where its rounding alone is at work.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffwave_sde import samplers
from diffwave_sde.callbacks import EMA, SpikeDetector
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import UNet
from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM, KarrasGrid, Sampler
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.sde import CLD, EDM, VP
from gpu_stages.work import Work, apart, awake, module_of, tones, twin

LIMIT = 1e-4  # relative, of float32
ADAPTIVE = 1e-3  # of samplers that choose their steps by what they meet, and hit their own tolerance
TRAINING, SOUNDS = "Loss and gradient", "Sounds of a seed"
COUNT = 2  # clips


def run(work: Work) -> None:
    for name, sde in [("tiny", None), ("base", None), ("crash", None), ("ncsnpp", None), ("tiny", "CLD")]:
        label = f"{name}, {sde}" if sde else name
        work.part(label, lambda name=name, sde=sde, label=label: network(work, name, sde, label), 3)
    work.part("samplers", lambda: every_sampler(work), 4)
    work.part("grids", lambda: every_grid(work), 1)
    work.part("training step", lambda: training_step(work), 8)
    work.part("tiny, compiled", lambda: compiled(work, "tiny"), 25)
    work.part("base, compiled", lambda: compiled(work, "base"), 25)


class Case:
    """A model, what it is shown, and what it answers on the CPU, clip by clip."""

    def __init__(self, work: Work, name: str, sde: str | None):
        self.work, self.length = work, 1_050 if work.quick else 21_000
        self.module = awake(module_of(name, sde, work.quick)).eval()
        self.module.sampler.steps = 2 if work.quick else 6
        self.x, self.label = tones(COUNT, self.length), torch.arange(COUNT)
        generators = [stream("same", i) for i in range(COUNT)]
        self.draw = self.module.loss.draw(self.module.denoiser.sde, self.x, generators)

    def trained(self, module: DiffusionModule, half: bool, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """The losses (n,) of some of the clips, and the gradient of their sum."""
        device = module.denoiser.sigma_data.device
        x, label, draw = self.x[rows].to(device), self.label[rows].to(device), self.draw[rows]
        draw = replace(draw, **{name: a.to(device) for name, a in vars(draw).items() if a is not None})
        module.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = module.loss.at(module.denoiser, x, draw, Condition(label=label))
        losses.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in module.denoiser.net.parameters() if p.grad is not None])
        return losses.detach().float().cpu(), gradient.cpu().double()

    @torch.no_grad()
    def sounds(self, module: DiffusionModule, half: bool, numbers: range = range(COUNT)) -> Tensor:
        """Sounds of these numbers, (n, 1, length)."""
        device = module.denoiser.sigma_data.device
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return module.sample(self.length, self.label[list(numbers)], module.generators(numbers, 5)).cpu()

    def reference(self, half: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, gradient and sounds on the CPU, clip by clip."""
        parts = [self.trained(self.module, half, slice(i, i + 1)) for i in range(COUNT)]
        sounds = [self.sounds(self.module, half, range(i, i + 1)) for i in range(COUNT)]
        losses, gradients = zip(*parts, strict=True)
        return torch.cat(losses), torch.stack(gradients).sum(0), torch.cat(sounds)

    def errors(self, module: DiffusionModule, half: bool, truth: tuple[Tensor, ...]) -> list[float]:
        """Of losses, gradient and sounds."""
        answers = [*self.trained(module, half), *([self.sounds(module, half)] if len(truth) > 2 else [])]
        return [apart(a, b) for a, b in zip(answers, truth, strict=True)]

    def note(self, label: str, precision: str, errors: list[float], limits: list[float]) -> None:
        names = ("loss", "gradient", "sounds")[: len(errors)]
        told = {f"{n}, relative error": f"{e:.1e} (of {b:.0e})" for n, e, b in zip(names, errors, limits, strict=True)}
        told.setdefault("sounds, relative error", "")
        self.work.stage.row("Against the CPU", {"network": label, "precision": precision, **told}, "(and the limit)")
        for name, error, limit in zip(names, errors, limits, strict=True):
            self.work.check(f"{label}, {precision}, {name}", error, limit)


def network(work: Work, name: str, sde: str | None, label: str) -> None:
    """Float32 and bfloat16."""
    case = Case(work, name, sde)
    module, truth = twin(case.module, work.device), case.reference(False)
    case.note(label, "float32", case.errors(module, False, truth), [LIMIT] * 3)
    if work.quick and not bfloat16_is_fast(work.device):
        work.skip(f"{label}, bfloat16", "slow on this machine")
        return
    rounding = [apart(a, b) for a, b in zip(case.reference(True), truth, strict=True)]
    case.note(label, "bfloat16", case.errors(module, True, truth), [2 * r + 1e-3 for r in rounding])


def compiled(work: Work, name: str) -> None:
    """The same through torch.compile; on a CPU no code is written, which takes minutes."""
    if name != "tiny" and not work.cuda:
        work.skip(f"{name}, compiled", "not on a CPU")
        return
    case = Case(work, name, None)
    case.module.guidance = None  # in batches of twice as many, for which all is compiled once more
    module = twin(case.module, work.device)
    options = {} if work.cuda else {"backend": "eager"}
    module.denoiser.net.compile(dynamic=False, **options)
    how = "float32, compiled" + ("" if work.cuda else " (no code written)")
    errors = case.errors(module, False, case.reference(False)[: 2 if work.quick else 3])
    case.note(name, how, errors, [LIMIT] * len(errors))


class NoValueIsRead(TorchDispatchMode):
    """On a CPU, where nothing waits: refuses what would wait for a GPU, a number read from a tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.__name__.split(".")[0] in ("_local_scalar_dense", "nonzero", "masked_select"):
            raise RuntimeError(f"{function.__name__} would wait for the device")
        return function(*args, **(kwargs or {}))


class Guard:
    """An error where anything waits for the device, from the end of a first step to the end of the last but one."""

    def __init__(self, cuda: bool):
        self.cuda, self.on, self.stack = cuda, False, contextlib.ExitStack()

    def start(self) -> None:
        if not self.on:
            self.on = True
            if self.cuda:
                torch.cuda.set_sync_debug_mode("error")
            else:
                self.stack.enter_context(NoValueIsRead())

    def stop(self) -> None:
        if self.on:
            self.on = False
            if self.cuda:
                torch.cuda.set_sync_debug_mode("default")
            self.stack.close()

    def progress(self, done: int, steps: int) -> None:
        """As a sampler's hook."""
        if done == 1:
            self.start()
        if done >= steps - 1:
            self.stop()


def small(sde: object) -> Denoiser:
    """A denoiser of a small network."""
    torch.manual_seed(0)
    net = UNet(sde.blocks, 3, channels=(16, 16), factors=(5,), blocks=1, embedding=16, heads=2)
    return awake(Denoiser(net, sde)).eval()


def sampled(work: Work, sampler: Sampler, sde: object) -> tuple[float, bool]:
    """How far sounds are from those that the CPU makes one by one; whether its loop was guarded."""
    denoiser, label = small(sde), torch.arange(COUNT)

    def made(on: Denoiser, rows: list[int], progress=None) -> Tensor:
        generators = [stream("every", i) for i in rows]
        device = on.sigma_data.device
        u = sde.prior((len(rows), 1, 500), generators, device)
        return sampler(on, u, Condition(label=label[rows].to(device)), generators, progress).cpu()

    alone = torch.cat([made(denoiser, [i]) for i in range(COUNT)])
    guard, guarded = Guard(work.cuda), hasattr(sampler.resolve(sde), "plan")
    try:
        together = made(denoiser.to(work.device), list(range(COUNT)), guard.progress if guarded else None)
    finally:
        guard.stop()
    return apart(together, alone), guarded


def every_sampler(work: Work) -> None:
    found = {name: getattr(samplers, name) for name in samplers.__all__}
    kinds = {n: k for n, k in found.items() if isinstance(k, type) and issubclass(k, Sampler)}
    steps = 3 if work.quick else 6
    options = {"GottaGoFast": {"max_nfe": 8 * steps}, "ProbabilityFlow": {"rtol": 1e-3, "atol": 1e-3}}
    for name, kind in kinds.items():
        if getattr(kind, "__abstractmethods__", None):
            continue
        sampler = kind(**options.get(name, {"steps": steps}))
        sde = next(sde for sde in (EDM(), CLD()) if sampler.supports(sde))
        error, guarded = sampled(work, sampler, sde)
        row = {"sampler": name, "process": type(sde).__name__, "relative error": f"{error:.1e}"}
        work.stage.row("Every sampler", {**row, "its loop waits for the device": "no" if guarded else "it may"})
        work.check(f"sounds of {name}", error, LIMIT if guarded else ADAPTIVE)


def every_grid(work: Work) -> None:
    times = KarrasGrid()(VP(), 6).tolist()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grids.yaml"
        file.write_text(yaml.safe_dump({6: times}))
        options = {"TimesGrid": {"times": times}, "LearnedGrid": {"file": str(file)}}
        found = {name: getattr(samplers, name) for name in samplers.__all__}
        for name, kind in found.items():
            if isinstance(kind, type) and issubclass(kind, Grid) and not getattr(kind, "__abstractmethods__", None):
                error, _ = sampled(work, DDIM(6, kind(**options.get(name, {}))), VP())
                work.stage.row("Every grid", {"grid": name, "relative error": f"{error:.1e}"})
                work.check(f"sounds on {name}", error, LIMIT)


class GuardSteps(Callback):
    """Guards the steps of training from the end of `first` to that of `last`."""

    def __init__(self, guard: Guard, first: int, last: int):
        self.guard, self.first, self.last, self.steps = guard, first, last, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += int(self.guard.on)
        if trainer.global_step == self.first:
            self.guard.start()
        if trainer.global_step == self.last:
            self.guard.stop()


def training_step(work: Work) -> None:
    """Training steps of the Trainer between two that are logged, from the batch to the average of the weights."""
    guard = Guard(work.cuda)
    if not work.cuda:  # where the callbacks may read what they like
        guard.start = lambda: None
    steps = GuardSteps(guard, 7, 10)
    with tempfile.TemporaryDirectory() as folder:
        data = AudioDataModule(
            "drums", folder, length=4_200, mu=0, batch_size=8, workers=1 if work.cuda else 0, count=40
        )
        trainer = Trainer(
            max_steps=13, max_epochs=-1, accelerator="gpu" if work.cuda else "cpu", devices=1, logger=False,
            precision="bf16-mixed" if bfloat16_is_fast(work.device) else "32-true", gradient_clip_val=1.0,
            log_every_n_steps=6, use_distributed_sampler=False, limit_val_batches=0, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            callbacks=[EMA(), SpikeDetector(), steps],
        )  # fmt: skip
        try:
            trainer.fit(module_of("tiny", small=work.quick), datamodule=data)
        finally:
            guard.stop()
    told = f"no, in {steps.steps} steps" if work.cuda else "not checked on a CPU"
    work.stage.row("Training step of the Trainer", {"steps": trainer.global_step, "waits for the device": told})
