r"""What tells the classes of noised sounds apart: log p(k | u_t).

All that a state says of its sound is the matched statistic, whatever the process and the number of its blocks:

    y = Mᵀ Σ⁻¹ u / snr = x + n,    n ~ N(0, 1 / snr),    p(k | u_t) = p(k | y, snr)

So a classifier is a function of y and the noise level alone. One that was trained with one process guides models of
any other, velocities included, and its gradient has the direction that a denoiser can take (`guidance`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from diffwave_sde.networks import Encoder
from diffwave_sde.sde import EDM, SDE, broadcast_like, dot, float64


class BaseClassifier(nn.Module, ABC):
    """log p(k | u_t), for the K classes of noised sounds.

    sde: the forward process.
    classes: K.
    """

    sde: SDE
    classes: int

    @abstractmethod
    def at(self, y: Tensor, snr: Tensor) -> Tensor:
        """log p(k | y) in nats, (B, K), of y = x + n (B, C, T) with noise n of the variance 1 / snr, (B,)."""

    @final
    def log_prob(self, u: Tensor, t: Tensor) -> Tensor:
        """log p(k | u_t) in nats: u (B, S, C, T), t (B,) -> (B, K)."""
        kernel = self.sde.kernel(t)
        return self.at(dot(kernel.matched / kernel.snr[:, None], u), kernel.snr)

    @final
    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """`log_prob`."""
        return self.log_prob(u, t)


class Classifier(BaseClassifier):
    """A network that tells noised sounds apart.

    Its input has unit variance, and it is told -log(SNR) / 8, both as a denoiser's.

    Args:
        net: net(y (B, C, T), noise (B,)) -> (B, K).
        sde: the forward process; EDM by default.
        sigma_data: standard deviation of the data, in units of the (companded) waveform; null for 0.5 until it is
            known.

    Raises:
        ValueError: if there are no two classes to tell apart.
    """

    sigma_data: Tensor

    def __init__(self, net: Encoder, sde: SDE | None = None, sigma_data: float | None = None):
        super().__init__()
        if net.outputs < 2:
            raise ValueError(f"a classifier of {net.outputs} class{'es' * (net.outputs != 1)} has nothing to tell")
        if sigma_data is not None and sigma_data <= 0:
            raise ValueError(f"sigma_data = {sigma_data:g} must be positive, or null to measure it")
        self.net, self.sde, self.classes = net, sde or EDM(), net.outputs
        self.register_buffer("sigma_data", torch.tensor(float(sigma_data or 0.5)))
        self.labels: Sequence[str] = ()
        """Names of its classes, where they are known."""
        self.rows: list[dict[int, float]] = [{k: 1.0} for k in range(self.classes)]
        """The class that each label of the model stands for, as shares; empty for one that it does not know."""

    def follow(self, labels: Sequence[str]) -> None:
        """Take the labels of a model for its own, by name."""
        own = list(self.labels)
        self.rows = [{own.index(name): 1.0} if name in own else {} for name in labels]

    def shares(self, mix: Mapping[int, float]) -> dict[int, float]:
        """Shares by class of a mix of a model's labels."""
        shares: dict[int, float] = {}
        for label, share in mix.items():
            for k in self.rows[label]:
                shares[k] = shares.get(k, 0.0) + share
        return shares

    def at(self, y: Tensor, snr: Tensor) -> Tensor:
        power = float64(self.sigma_data).to(snr).square()
        scaled = broadcast_like((power + 1 / snr).rsqrt(), y) * y
        noise = -(snr * power).log() / 8
        logits = self.net(scaled, noise.to(y).expand(y.shape[0]))
        # In float32 at least: near certainty half precision has no log p left.
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
