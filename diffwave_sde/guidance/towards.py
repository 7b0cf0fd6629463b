r"""A wrapper that guides sounds towards a class by the gradient of a classifier of noised sounds.

    D' = D + s / snr · ∇_y log p(class | y)    y = Mᵀ Σ⁻¹ u / snr, all that u says of its sound

so that the score has s ∇_u log p(class | u_t) added to it (Dhariwal and Nichol 2021, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffwave_sde.classifier import BaseClassifier
from diffwave_sde.denoiser import BaseDenoiser, Condition, Nodes, Wrapper
from diffwave_sde.guidance.away import check
from diffwave_sde.sde import broadcast_like, dot


class ClassifierGuidance(Wrapper):
    r"""D guided by a classifier of noised sounds: the score becomes ∇ log p(u_t) + s ∇ log p(label | u_t).

    The classifier knows u by y = Mᵀ Σ⁻¹ u / snr alone, so that its gradient by u is Σ⁻¹ M / snr times that by y; and
    Tweedie's Σ⁻¹ (M D - u) grows by s times that where D grows by s / snr ∇_y log p, whatever the number of blocks. For
    one block that is σ² / m ∇_u log p.

    At s = 1, with an exact classifier, D' is E[x | u_t, label] itself, and what is sampled follows p(x | label). At
    another scale, or for a mix, the flow's law is not p(x) p(label | x)^s, since that of the noised is not the noised
    one; `samplers.LangevinCorrector` brings it there.

    It takes the gradient through the classifier, none through the denoiser, wherever it acts. The denoiser is given the
    label too: one that knows classes is guided beyond its own.

    Source: Song et al. 2021, appendix I.1; Dhariwal and Nichol 2021, algorithm 1.

    Args:
        denoiser: what is wrapped.
        classifier: log p of its classes; of any process.
        weight: s, at least 0, which is none.
        sigma_min: noise level, σ = 1 / √snr, from which on it acts.
        sigma_max: the one up to which it acts.
        labels: label i stands for these shares by class of the classifier, labels[i]: the sum of share times log p is
            its log p. By default label i is class i. A negative label is not guided, nor one whose shares are empty.

    Raises:
        ValueError: if the weight or the noise levels are impossible, a share is not finite, or a class is none.
    """

    def __init__(
        self,
        denoiser: BaseDenoiser,
        classifier: BaseClassifier,
        weight: float = 1.0,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        labels: Sequence[Mapping[int, float]] | None = None,
    ):
        super().__init__(denoiser)
        check(weight=weight, sigma_min=sigma_min, sigma_max=sigma_max, none=0)
        self.classifier = classifier
        self.weight, self.sigma_min, self.sigma_max = weight, sigma_min, sigma_max
        classes = classifier.classes
        labels = [{k: 1.0} for k in range(classes)] if labels is None else labels
        shares = torch.zeros(len(labels) + 1, classes, dtype=torch.float64)  # the last row, which -1 picks, is of none
        for row, label in enumerate(labels):
            for k, share in label.items():
                if not (0 <= k < classes and math.isfinite(share)):
                    raise ValueError(f"a label is shares by class, 0 to {classes - 1}, not {dict(label)}")
                shares[row, k] = share
        device = torch.as_tensor(denoiser.sigma_data).device
        self.register_buffer("shares", shares.to(device), persistent=False)

    def acts(self, t: Tensor) -> Tensor:
        """Whether it acts at each of the times (N,)."""
        sigma = self.sde.kernel(t).snr.rsqrt()
        return (sigma >= self.sigma_min) & (sigma <= self.sigma_max) & (self.weight != 0)

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        D, share = self.denoiser.predict(u, t, condition)
        if not self._asked(condition):
            return D, share
        kernel, acts = self.sde.kernel(t), self.acts(t)[:, None, None].to(u.device)
        move = self._move(u, kernel.matched / kernel.snr[:, None], kernel.snr, condition.label)
        return torch.where(acts, D + move, D), share

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner, acts = self.denoiser.nodes(times, like), self.acts(times).tolist()
        kernel = self.sde.kernel(times)
        rows = [c.to(like).split(1) for c in (kernel.matched / kernel.snr[:, None], kernel.snr)]

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            D, share = inner(u, i, condition)
            if not acts[i] or not self._asked(condition):
                return D, share
            return D + self._move(u, *(row[i] for row in rows), condition.label), share

        return at

    def _asked(self, condition: Condition | None) -> bool:
        return self.weight != 0 and condition is not None and condition.label is not None

    def _move(self, u: Tensor, matched: Tensor, snr: Tensor, label: Tensor) -> Tensor:
        """What D grows by: (B, C, T)."""
        # Within a wrapper that asks for the slope of D, this is part of it.
        within = torch.is_grad_enabled() and u.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            # Copies: what was made in inference mode has no gradients.
            matched, snr, label = matched.clone(), snr.clone(), label.clone()
            y = dot(matched, u if within else u.detach().clone())
            y = y if within else y.requires_grad_()
            log_prob = self.classifier.at(y, snr)
            wanted = (self.shares[label].to(log_prob) * log_prob).sum()
            (gradient,) = torch.autograd.grad(wanted, y, create_graph=within)
            return broadcast_like(self.weight / snr, gradient) * gradient
