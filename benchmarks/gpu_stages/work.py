"""What the stages share: the device, the time that is left, the parts of a stage, networks by their names."""

from __future__ import annotations

import argparse
import copy
import platform
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from diffwave_sde.checkpoint import build
from diffwave_sde.cli.kinds import CONFIGS
from diffwave_sde.module import DiffusionModule
from gpu_stages.report import Stage


@dataclass
class Work:
    """A stage at work.

    device: where.
    quick: whether all is small.
    options: of the command line.
    stage: what it has found.
    ends: when its time is up, of time.monotonic.
    """

    device: torch.device
    quick: bool
    options: argparse.Namespace
    stage: Stage
    ends: float

    @staticmethod
    def begin(options: argparse.Namespace, seconds: float) -> Work:
        ends = time.monotonic() + seconds
        if options.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("--device cuda: no CUDA GPU here; add --device cpu --quick to see that the stages run")
        device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
        stage = Stage(options.stage, options.out / f"{options.stage}.json", machine=machine(device))
        stage.save()
        work = Work(device, options.quick, options, stage, ends)
        work.tf32(False)
        return work

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def part(self, name: str, function: Callable[[], object], seconds: float = 0.0) -> None:
        """Run a part of the stage, if there is time for it; an error is noted, and the next part goes on.

        Args:
            seconds: that it takes, roughly, on a GPU.
        """
        if self.options.parts and not re.search(self.options.parts, name):
            return
        if self.left < (seconds if self.cuda else 0.0):
            self.stage.left_out.append(f"{name} (takes some {seconds:.0f} s, and {max(self.left, 0):.0f} were left)")
            self.stage.save()
            return
        began = time.monotonic()
        try:
            function()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[0]
            self.stage.fail(name, f"{type(error).__name__}: {said}"[:300])
        print(f"-- {name}: {time.monotonic() - began:.1f} s", flush=True)
        if self.cuda:
            torch.cuda.empty_cache()

    def skip(self, name: str, why: str) -> None:
        self.stage.left_out.append(f"{name} ({why})")
        self.stage.save()

    def check(self, what: str, value: float, limit: float) -> None:
        """Note a failure if a value is beyond its limit, or not a number."""
        if not value <= limit:
            self.stage.fail(what, f"{value:.2g} where at most {limit:.2g} is right")

    def timed(self, call: Callable[[], object], rounds: int = 3, repeats: int = 1) -> float:
        """Seconds of a call: the least of so many rounds of as many repeats, after one that warms up."""
        call()
        best = float("inf")
        for _ in range(rounds):
            self.wait()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            self.wait()
            best = min(best, (time.perf_counter() - start) / repeats)
        return best

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def tf32(self, on: bool) -> None:
        """Whether products of float32 matrices may be rounded to TF32."""
        torch.backends.cuda.matmul.allow_tf32 = on
        torch.backends.cudnn.allow_tf32 = on


def machine(device: torch.device) -> dict[str, str]:
    """What a stage runs on, in words."""
    if device.type == "cuda":
        chip = torch.cuda.get_device_properties(device)
        name = f"{torch.cuda.device_count()} x {chip.name}, {chip.total_memory / 2**30:.0f} GiB"
        software = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    else:
        name, software = f"CPU, {torch.get_num_threads()} threads", f"PyTorch {torch.__version__}"
    return {"device": name, "software": software, "python": f"Python {platform.python_version()}"}


def described(network: str, sde: str | None = None, small: bool = False) -> dict:
    """The `model` part of a configuration: configs/base.yaml with one of configs/network/, and another process.

    Args:
        small: whether its levels are an eighth as wide.
    """
    model = yaml.safe_load((CONFIGS / "base.yaml").read_text())["model"]
    model["net"] = yaml.safe_load((CONFIGS / "network" / f"{network}.yaml").read_text())["model"]["net"]
    model["net"].setdefault("init_args", {}).update(inputs=2 if sde == "CLD" else 1, classes=3)
    if sde is not None:
        model["sde"] = {"class_path": sde}
    return {**model, "net": narrow(model["net"])} if small else model


def narrow(net: dict) -> dict:
    """What a configuration says of a network, its levels an eighth as wide."""
    arguments = net["init_args"]
    return {**net, "init_args": {**arguments, "channels": [width // 8 for width in arguments["channels"]]}}


def module_of(network: str, sde: str | None = None, small: bool = False) -> DiffusionModule:
    """A model as training begins with it, from a fixed seed."""
    torch.manual_seed(0)
    return build(described(network, sde, small), DiffusionModule)


def awake(module: nn.Module) -> nn.Module:
    """Give numbers to the layers that start at zero: until then a network says nothing, and all are alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            if not p.any():
                p.copy_(0.05 * torch.randn(p.shape, generator=generator))
    return module


def twin(module: DiffusionModule, device: torch.device) -> DiffusionModule:
    """The same model on another device."""
    return copy.deepcopy(module).to(device)


def apart(a: Tensor, b: Tensor) -> float:
    """How far a is from b, over b: root mean squares, in float64 on the CPU."""
    a, b = (x.detach().cpu().double().flatten() for x in (a, b))
    return float((a - b).norm() / b.norm())


def tones(count: int, length: int) -> Tensor:
    """Short decaying tones, (count, 1, length)."""
    generator = torch.Generator().manual_seed(2)
    time = torch.arange(length) / 44_100
    hz, decay = 100 * 30 ** torch.rand(2, count, 1, 1, generator=generator)
    return 0.8 * (2 * torch.pi * hz * time).sin() * (-decay.clamp_max(200) * time).exp()


def store_of(options: argparse.Namespace) -> Path:
    """The folder with the stores."""
    options.store.mkdir(parents=True, exist_ok=True)
    return options.store
