"""Several processes against one: as many as there are GPUs over NCCL, and two over gloo, which may share a GPU.

All take the same global batches and draws. By plain gradient descent their weights must come to be the same, to 1e-4 of
how far they have moved. The default optimizer, which divides by what is small and rounds to bfloat16, is told beside.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from diffwave_sde.checkpoint import build
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.module import DiffusionModule
from gpu_stages.work import Work, apart, awake, described, store_of

LIMIT = 1e-4
OPTIMIZERS = {
    "SGD": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    "default": None,
}


def run(work: Work) -> None:
    work.part("one process", lambda: one(work), 5)
    if work.cuda:
        count = torch.cuda.device_count()
        work.part(f"NCCL, {count} processes", lambda: several(work, "nccl", count), 15)
    else:
        work.skip("NCCL", "needs a GPU")
    work.part("gloo, two processes", lambda: several(work, "gloo", 2), 15)


def spec(work: Work, world: int, backend: str) -> dict:
    """What a worker is told."""
    return {
        "world": world, "backend": backend, "cuda": work.cuda, "steps": 2 if work.quick else 5,
        "batch": (4 if work.quick else 48 * torch.cuda.device_count()) // world,
        "length": 1_050 if work.quick else 21_000, "small": work.quick, "store": str(store_of(work.options)),
    }  # fmt: skip


def one(work: Work) -> None:
    """The process that the others are held against."""
    told = spec(work, 1, "none")
    for name in OPTIMIZERS:
        trained(told, name, work.options.out / f"ddp-one-{name}.pt")


def several(work: Work, backend: str, world: int) -> None:
    """Start them, wait, compare."""
    told, out = spec(work, world, backend), work.options.out
    if told["batch"] * world != spec(work, 1, "none")["batch"]:
        raise ValueError(f"{world} processes do not share a batch of {spec(work, 1, 'none')['batch']} evenly")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Over gloo each process is a machine of its own to Lightning, so that all may have the same GPU.
    shared = backend == "gloo"
    children = []
    for rank in range(world):
        place = {"NODE_RANK": rank, "LOCAL_RANK": 0} if shared else {"NODE_RANK": 0, "LOCAL_RANK": rank}
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "RANK": rank, **place}
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ["PYTHONPATH"]])
        if not work.cuda:
            env["OMP_NUM_THREADS"] = 1
        command = [sys.executable, __file__, json.dumps(told), str(out), str(rank)]
        children.append(subprocess.Popen(command, env={**os.environ, **{k: str(v) for k, v in env.items()}}))
    try:
        codes = [child.wait(timeout=max(work.left, 30)) for child in children]
    finally:
        for child in children:
            child.kill()
    if any(codes):
        raise RuntimeError(f"processes ended with {codes}; see {out / 'ddp.log'}")
    for name in OPTIMIZERS:
        ours, alone = (torch.load(out / f"ddp-{what}-{name}.pt") for what in (backend, "one"))
        moved = alone["after"] - alone["before"]
        error = apart(ours["after"] - ours["before"], moved)
        row = {"processes": f"{world}, {backend}", "optimizer": name, "steps": told["steps"]}
        row |= {"ms a step": f"{1e3 * ours['seconds']:.1f}", "of one process": f"{1e3 * alone['seconds']:.1f}"}
        work.stage.row(
            "Weights of several processes and of one", {**row, "apart, of how far they moved": f"{error:.1e}"}
        )
        if name == "SGD":
            work.check(f"weights, {world} processes over {backend}", error, LIMIT)


def trained(told: dict, name: str, path: Path) -> None:
    """Train in this process, and keep the weights before and after, and the seconds of a step."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = described("tiny", small=told["small"])
    model["optimizer"], model["scheduler"] = OPTIMIZERS[name] or model["optimizer"], None
    torch.manual_seed(0)
    module = awake(build(model, DiffusionModule))
    before = flat(module)
    data = AudioDataModule(
        "drums", told["store"], told["length"], 0, told["batch"], workers=0, count=40, validation=0.05, test=0.05
    )
    shared, world = told["backend"] == "gloo", told["world"]
    together = world > 1 or told["backend"] != "none"
    strategy = DDPStrategy(process_group_backend=told["backend"]) if together else "auto"
    clock = Clock()
    trainer = Trainer(
        max_steps=told["steps"], max_epochs=-1, accelerator="gpu" if told["cuda"] else "cpu", strategy=strategy,
        num_nodes=world if shared else 1, devices=1 if shared else world, precision="32-true", logger=False,
        use_distributed_sampler=False, limit_val_batches=0, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=path.parent, callbacks=[clock],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        torch.save({"before": before, "after": flat(module), "seconds": clock.seconds}, path)


class Clock(Callback):
    """The seconds of a step, the first one left out; the device is waited for at both ends alone."""

    began = seconds = 0.0

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 1:
            self.began = self.now(pl_module)

    def on_train_end(self, trainer, pl_module):
        self.seconds = (self.now(pl_module) - self.began) / (trainer.global_step - 1)

    @staticmethod
    def now(module: DiffusionModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        return time.perf_counter()


def flat(module: DiffusionModule) -> torch.Tensor:
    """All weights."""
    return torch.cat([p.detach().flatten() for p in module.parameters()]).cpu()


if __name__ == "__main__":
    settings, folder, number = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for kind in OPTIMIZERS:
        trained(settings, kind, folder / f"ddp-{settings['backend']}-{kind}.pt")
