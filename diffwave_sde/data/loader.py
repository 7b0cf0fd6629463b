"""The order of the clips, and a loader that a stopped run goes on with.

The order of an epoch is a function of (seed, epoch) alone, and rank r of W takes every W-th clip of it: at step k, W
processes with batch B hold the clips of one with W·B.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from diffwave_sde.data.clips import Batch


class EpochSampler(DistributedSampler):
    """The order of an epoch, for one rank, from any batch of it on.

    A DistributedSampler by type, so that Lightning does not replace it, with the order its own.

    Args:
        dataset: what has a length n
        batch_size: clips per process and batch
        seed: of the orders
        num_replicas: processes W
        rank: which of them this is
        numbered: whether an index names the pass over the clips too, pass · n + place; `Clips` with augmentation
            draws from it

    Each rank gets the same number of whole batches: what is left of an epoch is dropped, and another epoch's
    order drops another rest. Fewer clips than one batch of all ranks are repeated to fill it.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        numbered: bool = False,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        self.batch_size, self.numbered = batch_size, numbered
        self.batches = max(1, len(dataset) // self.global_batch)
        self.num_samples = self.batches * batch_size
        self.total_size = self.num_samples * num_replicas
        self.position = 0  # batches of this epoch that the training loop has taken

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.num_replicas

    def order(self) -> np.ndarray:
        """The epoch's order for all ranks, (batches · global batch,)."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))
        return np.resize(order, self.total_size)

    def __iter__(self) -> Iterator[int]:
        order, n = self.order(), len(self.dataset)
        if self.numbered:
            # where clips are repeated to fill a batch, each time is a pass of its own
            passes = math.ceil(self.total_size / n)
            order = order + n * (self.epoch * passes + np.arange(self.total_size) // n)
        mine = order[self.rank :: self.num_replicas]
        return iter(mine[self.position * self.batch_size :].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Turns to the next epoch if this one is done; the loop's own number of it does not matter.

        Lightning counts an epoch too many when it goes on from the end of one, and ends one in its middle at
        max_steps or Ctrl-C. The order must be that of the run which had not stopped.
        """
        if self.position >= self.batches:
            self.next_epoch()

    def next_epoch(self) -> None:
        """Goes to the first batch of the next epoch."""
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {
            "epoch": self.epoch, "position": self.position,
            "global_batch": self.global_batch, "clips": len(self.dataset), "seed": self.seed,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where another sampler was, with another number of ranks or batch size too."""
        self.epoch = state["epoch"]
        if (state["clips"], state["seed"]) != (len(self.dataset), self.seed):
            warnings.warn("the training clips or the data seed have changed: this epoch starts anew", stacklevel=2)
            self.position = 0
        else:
            self.position = min(state["position"] * state["global_batch"] // self.global_batch, self.batches)


class ResumableLoader(DataLoader):
    """A DataLoader over an `EpochSampler` that knows how many batches were taken from it, not how many its
    workers have made ahead. Lightning keeps its state in the checkpoint."""

    def __iter__(self) -> Iterator[Batch]:
        # A generator: Lightning makes the iterator before it sets the epoch, and workers start with it. So
        # nothing may start before the first batch is asked for.
        sampler = self.sampler
        if not hasattr(sampler, "position"):  # Lightning's overfit_batches puts its own in place
            yield from super().__iter__()
            return
        if sampler.position >= sampler.batches:
            sampler.next_epoch()
        for batch in super().__iter__():
            sampler.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return self.sampler.state_dict() if hasattr(self.sampler, "state_dict") else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state and hasattr(self.sampler, "load_state_dict"):
            self.sampler.load_state_dict(state)
