r"""Guidance: wrappers, denoiser to denoiser, that guide sounds away from a worse answer. No sampler knows about them.

    D' = D + (w - 1) (D - worse)    at the noise levels between sigma_min and sigma_max

The worse answer is that without the class (classifier-free guidance, Ho and Salimans 2022, eq. 6, whose w is ours less
1) or that of a weaker network (autoguidance, Karras et al. 2024, eq. 3). Noise levels are σ = 1 / √snr.

Or sounds are guided towards what a classifier of noised sounds takes for a class, s ∇ log p(class | u_t) added to the
score (Dhariwal and Nichol 2021, section 4.1):

    D' = D + s / snr · ∇_y log p(class | y)    y = Mᵀ Σ⁻¹ u / snr, all that u says of its sound
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffwave_sde.classifier import BaseClassifier, Classifier
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser, Nodes, Wrapper
from diffwave_sde.sde import broadcast_like, dot


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
        _check(weight=weight, sigma_min=sigma_min, sigma_max=sigma_max)
        self.weight, self.sigma_min, self.sigma_max = weight, sigma_min, sigma_max

    def acts(self, t: Tensor) -> Tensor:
        """Whether it acts at each of the times (N,)."""
        sigma = self.sde.kernel(t).snr.rsqrt()
        return (sigma >= self.sigma_min) & (sigma <= self.sigma_max) & (self.weight != 1)

    def away(self, D: Tensor, worse: Tensor) -> Tensor:
        """The new D (B, C, T)."""
        return D + (self.weight - 1) * (D - worse)


def _check(none: int = 1, **options: float) -> None:
    """Raises a ValueError of one line if a weight and two noise levels, by name, contradict each other."""
    (weight, w), (first, sigma_min), (last, sigma_max) = options.items()
    if not w >= 0:
        raise ValueError(f"{weight} = {w:g} must be at least 0; {none} is no guidance")
    if not 0 <= sigma_min < sigma_max:
        raise ValueError(f"{first} = {sigma_min:g} and {last} = {sigma_max:g} are noise levels: 0 <= {first} < {last}")


class ClassifierFree(GuidedDenoiser):
    """D guided away from what it would be without a class: D + (w - 1) (D - D without the class).

    It takes a second pass of the network wherever it acts; both are made in one call, of twice the batch. Where nothing
    is asked for, nothing changes. The network must be trained with some of the classes hidden.

    Source: Ho and Salimans 2022, eq. 6 (their w is ours less 1); at some noise levels alone: Kynkäänniemi et al. 2024.
    """

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        if not self._asked(condition):
            return self.denoiser.predict(u, t, condition)
        acts = self.acts(t)[:, None, None].to(u.device)
        both, share = self.denoiser.predict(torch.cat((u, u)), torch.cat((t, t)), _and_without(condition))
        D, without = both.chunk(2)
        return torch.where(acts, self.away(D, without), D), None if share is None else share[: len(u)]

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner, acts = self.denoiser.nodes(times, like), self.acts(times).tolist()

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            if not acts[i] or not self._asked(condition):
                return inner(u, i, condition)
            both, share = inner(torch.cat((u, u)), i, _and_without(condition))
            return self.away(*both.chunk(2)), None if share is None else share[: len(u)]

        return at

    def _asked(self, condition: Condition | None) -> bool:
        return self.weight != 1 and condition is not None and condition.label is not None


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
        _check(weight=weight, sigma_min=sigma_min, sigma_max=sigma_max, none=0)
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


def _and_without(condition: Condition) -> Condition:
    """The condition, and then again without its classes."""
    return _stacked(condition, (condition.label, torch.full_like(condition.label, -1)))


def _stacked(condition: Condition, labels: Sequence[Tensor]) -> Condition:
    """The condition again for each of the labels (B,)."""
    repeated = {k: None if v is None else torch.cat([v] * len(labels)) for k, v in vars(condition).items()}
    return Condition(**{**repeated, "label": torch.cat(tuple(labels))})


@dataclass(frozen=True)
class Guidance:
    """How far sounds are guided, and at which noise levels; what a configuration says.

    Args:
        weight: how far to the class that is asked for; 1 is not at all, more makes sounds clearer examples of their
            class, and more alike.
        sigma_min: noise level σ from which on that acts; each step that it acts at costs two passes of the network.
        sigma_max: noise level σ up to which it acts; .inf for all.
        auto: how far away from the errors of the model's weak network (autoguidance); 1 is not at all.
        auto_sigma_min: noise level σ from which on that acts; each such step costs a pass of the weak network.
        auto_sigma_max: noise level σ up to which it acts; .inf for all.
        classifier: how far by the gradient of a classifier of noised sounds (classifier guidance), where there is one;
            0 is not at all, and 1 makes sounds of the class from a model that knows none.
        classifier_sigma_min: noise level σ from which on that acts; each such step costs a gradient of the classifier.
        classifier_sigma_max: noise level σ up to which it acts; .inf for all.

    Raises:
        ValueError: if they contradict each other.
    """

    weight: float = 1.5
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    auto: float = 1.0
    auto_sigma_min: float = 0.0
    auto_sigma_max: float = math.inf
    classifier: float = 0.0
    classifier_sigma_min: float = 0.0
    classifier_sigma_max: float = math.inf

    def __post_init__(self) -> None:
        levels = {name: getattr(self, name) for name in ("classifier_sigma_min", "classifier_sigma_max")}
        _check(classifier=self.classifier, **levels, none=0)
        _check(weight=self.weight, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        _check(auto=self.auto, auto_sigma_min=self.auto_sigma_min, auto_sigma_max=self.auto_sigma_max)

    def by_class(self, denoiser: BaseDenoiser) -> ClassifierFree:
        """The part that guides towards a class."""
        return ClassifierFree(denoiser, self.weight, self.sigma_min, self.sigma_max)

    def by_weak(self, denoiser: BaseDenoiser, weak: BaseDenoiser) -> AutoGuidance:
        """The part that guides away from what a weaker denoiser says."""
        return AutoGuidance(denoiser, weak, self.auto, self.auto_sigma_min, self.auto_sigma_max)

    def by_classifier(
        self, denoiser: BaseDenoiser, classifier: BaseClassifier, labels: Sequence[Mapping[int, float]] | None = None
    ) -> ClassifierGuidance:
        """The part that guides by a classifier; `labels` as of `ClassifierGuidance`."""
        levels = self.classifier_sigma_min, self.classifier_sigma_max
        return ClassifierGuidance(denoiser, classifier, self.classifier, *levels, labels)

    def supported_by(self, denoiser: Denoiser, classifier: Classifier | None = None) -> Guidance:
        """As much of it as a model has the means for: one of no two classes has none to be guided towards."""
        weight = self.weight if denoiser.net.classes > 1 else 1.0
        auto = 1.0 if denoiser.weak is None else self.auto
        return replace(self, weight=weight, auto=auto, classifier=0.0 if classifier is None else self.classifier)

    def __call__(
        self,
        denoiser: Denoiser,
        mixes: Sequence[Mapping[int, float]] = (),
        classifier: Classifier | None = None,
    ) -> BaseDenoiser:
        """The denoiser, guided as far as it has the means for; labels beyond its classes stand for `mixes`.

        Where the network knows no classes, labels and mixes are those of the classifier.
        """
        own, guided, weak = self.supported_by(denoiser, classifier), denoiser, denoiser.weak
        classes = denoiser.net.classes
        if mixes and classes:
            guided = ClassMix(denoiser, classes, mixes, own.weight, own.sigma_min, own.sigma_max)
            weak = weak and ClassMix(weak, classes, mixes)
        elif own.weight != 1:
            guided = own.by_class(guided)
        if own.auto != 1:
            guided = own.by_weak(guided, weak)
        if own.classifier:
            guided = own.by_classifier(guided, classifier, [*classifier.rows, *map(classifier.shares, mixes)])
        return guided

    def __str__(self) -> str:
        parts = [_told(self.weight, self.sigma_min, self.sigma_max)] if self.weight != 1 else []
        if self.auto != 1:
            parts.append(f"auto {_told(self.auto, self.auto_sigma_min, self.auto_sigma_max)}")
        if self.classifier:
            levels = self.classifier_sigma_min, self.classifier_sigma_max
            parts.append(f"classifier {_told(self.classifier, *levels)}")
        return ", ".join(parts) or "none"


def _told(weight: float, sigma_min: float, sigma_max: float) -> str:
    levels = [f"from σ = {sigma_min:g}"] * (sigma_min > 0) + [f"up to σ = {sigma_max:g}"] * (sigma_max < math.inf)
    return " ".join([f"{weight:g}", *levels])
