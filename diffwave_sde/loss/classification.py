"""What a training step of a noise-conditional classifier makes least: the cross-entropy of the class, given noise."""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.classifier import BaseClassifier
from diffwave_sde.denoiser import Condition
from diffwave_sde.loss.objectives import NoisedLoss, NoiseDraw, TimeSampling
from diffwave_sde.loss.times import LogNormalSigma, TimeSampler
from diffwave_sde.sde import broadcast_like


class CrossEntropy(NoisedLoss):
    """-log p(class | u_t), u_t the noised clip: least where p is the true law of the classes at each noise level.

    Source: Song et al. 2021, appendix I.1; Dhariwal and Nichol 2021, section 4.

    Args:
        time: the law of the times; log σ normal around 1, where most classes are told apart, by default.
        smoothing: share of the target that is spread over all classes (label smoothing), 0 to 1. It bounds the
            gradient where a class is certain, and the law that is guided to is no longer exact.
        time_sampling: how a batch is spread over the law of the times: one time in each of B equal parts
            ("stratified"); the same with one offset for all ("low-discrepancy"); or "independent".
    """

    def __init__(
        self, time: TimeSampler | None = None, smoothing: float = 0.0, time_sampling: TimeSampling = "stratified"
    ):
        super().__init__(time or LogNormalSigma(0.0, 2.4), time_sampling)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing = {smoothing:g} is a share: choose it from 0 up to, but not, 1")
        self.smoothing = smoothing

    def log_prob(self, classifier: BaseClassifier, x: Tensor, draw: NoiseDraw) -> Tensor:
        """log p(k | u_t) in nats of clips x (B, C, T) at given times and noise: (B, K)."""
        return classifier.log_prob(classifier.sde.kernel(draw.t).sample(x, draw.eps), draw.t)

    def of(self, log_prob: Tensor, draw: NoiseDraw, condition: Condition) -> Tensor:
        """The loss of each example in nats, (B,), from log p(k | u_t) (B, K)."""
        own = log_prob.gather(1, condition.label[:, None])[:, 0]
        loss = -torch.lerp(own, log_prob.mean(1), self.smoothing)
        return loss if draw.weight is None else broadcast_like(draw.weight, loss) * loss

    def at(self, classifier: BaseClassifier, x: Tensor, draw: NoiseDraw, condition: Condition) -> Tensor:
        """The loss of each example of x (B, C, T) for given times and noise: (B,)."""
        return self.of(self.log_prob(classifier, x, draw), draw, condition)
