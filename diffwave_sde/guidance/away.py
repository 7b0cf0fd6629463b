r"""Wrappers that guide sounds away from a worse answer.

    D' = D + (w - 1) (D - worse)    at the noise levels between sigma_min and sigma_max

The worse answer is that without the class (classifier-free guidance, Ho and Salimans 2022, eq. 6, whose w is ours less
1) or that of a weaker network (autoguidance, Karras et al. 2024, eq. 3). Noise levels are σ = 1 / √snr.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition, Nodes, Wrapper


class GuidedDenoiser(Wrapper):
    """A denoiser that is guided away from a worse answer at some noise levels: D + (w - 1) (D - the worse one).

    Args:
        denoiser: what is wrapped.
        weight: w; 1 leaves D as it is.
        sigma_min: noise level, σ = 1 / √snr, from which on it acts.
        sigma_max: the one up to which it acts.
    """

    def __init__(
        self, denoiser: BaseDenoiser, weight: float = 1.5, sigma_min: float = 0.0, sigma_max: float = math.inf
    ):
        super().__init__(denoiser)
        check(weight=weight, sigma_min=sigma_min, sigma_max=sigma_max)
        self.weight, self.sigma_min, self.sigma_max = weight, sigma_min, sigma_max

    def acts(self, t: Tensor) -> Tensor:
        """Whether it acts at each of the times (N,)."""
        sigma = self.sde.kernel(t).snr.rsqrt()
        return (sigma >= self.sigma_min) & (sigma <= self.sigma_max) & (self.weight != 1)

    def away(self, D: Tensor, worse: Tensor, weight: Tensor | None = None) -> Tensor:
        """The new D (B, C, T); `weight` (B,) in place of one for all."""
        return D + (self.weight - 1 if weight is None else weight[:, None, None].to(D) - 1) * (D - worse)


def check(none: int = 1, **options: float) -> None:
    """Raises a ValueError of one line if a weight and two noise levels, by name, contradict each other."""
    (weight, w), (first, sigma_min), (last, sigma_max) = options.items()
    if not w >= 0:
        raise ValueError(f"{weight} = {w:g} must be at least 0; {none} is no guidance")
    if not 0 <= sigma_min < sigma_max:
        raise ValueError(f"{first} = {sigma_min:g} and {last} = {sigma_max:g} are noise levels: 0 <= {first} < {last}")


class _Hiding(GuidedDenoiser):
    """D guided away from what it would be without a part of the condition.

    It takes a second pass of what it wraps wherever it acts; both are made in one call, of twice the batch. Where
    nothing is asked for, nothing changes.
    """

    @abstractmethod
    def asked(self, condition: Condition | None) -> bool:
        """Whether the condition has that part."""

    @abstractmethod
    def twice(self, condition: Condition) -> Condition:
        """The condition, and then again without that part."""

    def weights(self, condition: Condition) -> Tensor | None:
        """A weight (B,) for each example in place of one for all; or None."""
        return None

    @final
    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        if self.weight == 1 or not self.asked(condition):
            return self.denoiser.predict(u, t, condition)
        acts = self.acts(t)[:, None, None].to(u.device)
        both, share = self.denoiser.predict(torch.cat((u, u)), torch.cat((t, t)), self.twice(condition))
        D, without = both.chunk(2)
        D = torch.where(acts, self.away(D, without, self.weights(condition)), D)
        return D, None if share is None else share[: len(u)]

    @final
    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner, acts = self.denoiser.nodes(times, like), self.acts(times).tolist()

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            if not acts[i] or not self.asked(condition):
                return inner(u, i, condition)
            both, share = inner(torch.cat((u, u)), i, self.twice(condition))
            return self.away(*both.chunk(2), self.weights(condition)), None if share is None else share[: len(u)]

        return at


class ClassifierFree(_Hiding):
    """D guided away from what it would be without a class: D + (w - 1) (D - D without the class).

    The network must be trained with some of the classes hidden. `condition.guidance`, where it is given, takes the
    place of w, example by example.

    Source: Ho and Salimans 2022, eq. 6 (their w is ours less 1); at some noise levels alone: Kynkäänniemi et al. 2024.
    """

    def asked(self, condition: Condition | None) -> bool:
        return condition is not None and condition.label is not None

    def twice(self, condition: Condition) -> Condition:
        return _stacked(condition, (condition.label, torch.full_like(condition.label, -1)))

    def weights(self, condition: Condition) -> Tensor | None:
        return condition.guidance


class ContextFree(_Hiding):
    """D guided away from what it would be without a context to go by: D + (w - 1) (D - D without the context).

    As `ClassifierFree`, which it may wrap: then D and D without the context are each guided towards the class, and
    where context and class tell of x independently the scores add up, s + w_a s_a + w_c s_c. The network must be
    trained with some of the contexts hidden.

    Source: Ho and Salimans 2022, eq. 6; Liu et al. 2022, eq. 11, for several conditions.
    """

    def asked(self, condition: Condition | None) -> bool:
        return condition is not None and condition.audio is not None

    def twice(self, condition: Condition) -> Condition:
        return replace(_repeated(condition, 2), audio=torch.cat((condition.audio, torch.zeros_like(condition.audio))))


class GuidanceInput(Wrapper):
    """A network that has learned guidance, told its weight: one pass a call, at the noise levels of its teacher.

    Source: Meng et al. 2023, section 3.1.

    Args:
        denoiser: of a network that takes the weight (`Network.guidance`).
        weight: w, as of `GuidedDenoiser`.
    """

    def __init__(self, denoiser: BaseDenoiser, weight: float):
        super().__init__(denoiser)
        self.weight = weight

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        return self.denoiser.predict(u, t, self._told(u, condition))

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner = self.denoiser.nodes(times, like)
        return lambda u, i, condition=None: inner(u, i, self._told(u, condition))

    def _told(self, u: Tensor, condition: Condition | None) -> Condition:
        return replace(condition or Condition(), guidance=u.new_full((u.shape[0],), self.weight))


class ClassMix(GuidedDenoiser):
    r"""D of class mixes: D₀ + w Σ_k s_k (D_k - D₀), D₀ the answer without a class.

    At every noise level the scores of the classes are mixed in this way, Σ_k s_k ∇ log p(u_t | k) where the shares sum
    to 1: the score of the product of the noised laws, each to the power of its share, and no average of sounds. What is
    missing to 1 is the share of no class. The flow of mixed scores does not end in the product of the laws of the
    sounds, since the noised product is not the product of the noised; `samplers.LangevinCorrector` brings it there.

    It takes a pass for each class of the largest mix, and one more where it is guided; all are made in one call.

    Source: Liu et al. 2022, eq. 11; Du et al. 2023, section 3.

    Args:
        denoiser: what is wrapped.
        classes: K, how many classes there are; labels below stand for one class each, as without this wrapper.
        mixes: label K + j stands for mixes[j], shares by class.
        weight, sigma_min, sigma_max: guidance, w, as of `ClassifierFree`, whose place it takes.

    Raises:
        ValueError: if a share is not finite, a class is none, or a mix is empty.
    """

    def __init__(
        self,
        denoiser: BaseDenoiser,
        classes: int,
        mixes: Sequence[Mapping[int, float]],
        weight: float = 1.0,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ):
        super().__init__(denoiser, weight, sigma_min, sigma_max)
        for mix in mixes:
            if not mix or not all(0 <= k < classes and math.isfinite(share) for k, share in mix.items()):
                raise ValueError(f"a mix is shares by class, 0 to {classes - 1}, not {dict(mix)}")
        # A row for each label; the last one, which -1 picks, is that of no class. The last column has what is missing.
        rows = [*({k: 1.0} for k in range(classes)), *map(dict, mixes), {-1: 1.0}]
        width = max(map(len, rows))
        labels = [[*row, *[-1] * (width + 1 - len(row))] for row in rows]
        shares = torch.tensor([[*row.values(), *[0.0] * (width - len(row))] for row in rows], dtype=torch.float64)
        device = torch.as_tensor(denoiser.sigma_data).device
        self.register_buffer("labels", torch.tensor(labels, device=device), persistent=False)
        for name, w in {"plain": 1.0, "guided": weight}.items():
            rest = 1 - (w * shares).sum(1, keepdim=True)
            rest = torch.where(rest.abs() < 1e-9, 0.0, rest)
            self.register_buffer(name, torch.cat((w * shares, rest), 1).to(device), persistent=False)
        # Where nothing is missing nothing is asked for.
        self.columns = width + bool((self.plain[:, -1] != 0).any())

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        if condition is None or condition.label is None:
            return self.denoiser.predict(u, t, condition)
        acts = self.acts(t)[:, None].to(u.device)
        shares = torch.where(acts, self.guided[condition.label], self.plain[condition.label])
        columns = self.columns if self.weight == 1 else self.labels.shape[1]
        return self._mixed(
            lambda v, c: self.denoiser.predict(v, t.repeat(columns), c), u, condition, shares[:, :columns]
        )

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner, acts = self.denoiser.nodes(times, like), self.acts(times).tolist()

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            if condition is None or condition.label is None:
                return inner(u, i, condition)
            shares = self.guided if acts[i] else self.plain[:, : self.columns]
            return self._mixed(lambda v, c: inner(v, i, c), u, condition, shares[condition.label])

        return at

    def _mixed(
        self,
        call: Callable[[Tensor, Condition], tuple[Tensor, Tensor | None]],
        u: Tensor,
        condition: Condition,
        shares: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """The answers of all classes in one call, mixed by `shares` (B, columns)."""
        columns = shares.shape[1]
        labels = self.labels[condition.label, :columns].T  # (columns, B)
        answers = call(u.repeat(columns, 1, 1, 1), _stacked(condition, labels.unbind()))
        weights = shares.T[..., None, None]

        def mixed(a: Tensor) -> Tensor:
            return (weights.to(a) * a.unflatten(0, (columns, -1))).sum(0)

        return mixed(answers[0]), None if answers[1] is None else mixed(answers[1])


class AutoGuidance(GuidedDenoiser):
    """D guided away from what a weaker network says of the same: D + (w - 1) (D - D of the weaker one).

    Both err in the same places, the weaker one more: the difference points away from the errors. It takes a pass of the
    weaker network wherever it acts.

    Source: Karras et al. 2024, "Guiding a diffusion model with a bad version of itself", section 3.

    Args:
        denoiser: what is wrapped.
        weak: a denoiser for the same process, of a network with less in it or less trained; or a wrapper of one.
        weight, sigma_min, sigma_max: as of `GuidedDenoiser`.
    """

    def __init__(
        self,
        denoiser: BaseDenoiser,
        weak: BaseDenoiser,
        weight: float = 1.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ):
        super().__init__(denoiser, weight, sigma_min, sigma_max)
        self.weak = weak

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        D, share = self.denoiser.predict(u, t, condition)
        if self.weight == 1:
            return D, share
        acts = self.acts(t)[:, None, None].to(u.device)
        return torch.where(acts, self.away(D, self.weak(u, t, condition)), D), share

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner, weak = self.denoiser.nodes(times, like), self.weak.nodes(times, like)
        acts = self.acts(times).tolist()

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            D, share = inner(u, i, condition)
            return self.away(D, weak(u, i, condition)[0]) if acts[i] else D, share

        return at


def _stacked(condition: Condition, labels: Sequence[Tensor]) -> Condition:
    """The condition again for each of the labels (B,)."""
    return replace(_repeated(condition, len(labels)), label=torch.cat(tuple(labels)))


def _repeated(condition: Condition, times: int) -> Condition:
    return Condition(**{k: None if v is None else torch.cat([v] * times) for k, v in vars(condition).items()})
