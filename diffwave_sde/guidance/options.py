"""How far sounds are guided, as a configuration says it, and the wrappers that come of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diffwave_sde.classifier import BaseClassifier, Classifier
from diffwave_sde.denoiser import BaseDenoiser, Denoiser
from diffwave_sde.guidance.away import AutoGuidance, ClassifierFree, ClassMix, ContextFree, GuidanceInput, check
from diffwave_sde.guidance.towards import ClassifierGuidance


@dataclass(frozen=True)
class Guidance:
    """How far sounds are guided, and at which noise levels; what a configuration says.

    Args:
        weight: how far to the class that is asked for; 1 is not at all, more makes sounds clearer examples of their
            class, and more alike. A network that takes it as an input is told it instead, and needs no second pass.
        sigma_min: noise level σ from which on that acts; each step that it acts at costs two passes of the network.
        sigma_max: noise level σ up to which it acts; .inf for all.
        auto: how far away from the errors of the model's weak network (autoguidance); 1 is not at all.
        auto_sigma_min: noise level σ from which on that acts; each such step costs a pass of the weak network.
        auto_sigma_max: noise level σ up to which it acts; .inf for all.
        classifier: how far by the gradient of a classifier of noised sounds (classifier guidance), where there is one;
            0 is not at all, and 1 makes sounds of the class from a model that knows none.
        classifier_sigma_min: noise level σ from which on that acts; each such step costs a gradient of the classifier.
        classifier_sigma_max: noise level σ up to which it acts; .inf for all.
        audio: how far to the context that a sound is to go with (sample --audio); 1 is not at all, more makes it follow
            more closely; where it acts a step costs twice the passes.
        audio_sigma_min: noise level σ from which on that acts.
        audio_sigma_max: noise level σ up to which it acts; .inf for all.

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
    audio: float = 1.0
    audio_sigma_min: float = 0.0
    audio_sigma_max: float = math.inf

    def __post_init__(self) -> None:
        levels = {name: getattr(self, name) for name in ("classifier_sigma_min", "classifier_sigma_max")}
        check(classifier=self.classifier, **levels, none=0)
        check(weight=self.weight, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        check(audio=self.audio, audio_sigma_min=self.audio_sigma_min, audio_sigma_max=self.audio_sigma_max)
        check(auto=self.auto, auto_sigma_min=self.auto_sigma_min, auto_sigma_max=self.auto_sigma_max)

    def by_class(self, denoiser: BaseDenoiser) -> ClassifierFree:
        """The part that guides towards a class."""
        return ClassifierFree(denoiser, self.weight, self.sigma_min, self.sigma_max)

    def by_context(self, denoiser: BaseDenoiser) -> ContextFree:
        """The part that guides towards a context."""
        return ContextFree(denoiser, self.audio, self.audio_sigma_min, self.audio_sigma_max)

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
        led = 0.0 if classifier is None else self.classifier
        audio = 1.0 if denoiser.net.context == "none" else self.audio
        return replace(self, weight=weight, auto=auto, classifier=led, audio=audio)

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
        if mixes and (classes or classifier is None):
            guided = ClassMix(denoiser, classes, mixes, own.weight, own.sigma_min, own.sigma_max)
            weak = weak and ClassMix(weak, classes, mixes)
        elif own.weight != 1:
            guided = GuidanceInput(guided, own.weight) if denoiser.net.guidance else own.by_class(guided)
        if own.audio != 1:
            guided = own.by_context(guided)
        if own.auto != 1:
            guided = own.by_weak(guided, weak)
        if own.classifier:
            guided = own.by_classifier(guided, classifier, [*classifier.rows, *map(classifier.shares, mixes)])
        return guided

    def __str__(self) -> str:
        parts = [_told(self.weight, self.sigma_min, self.sigma_max)] if self.weight != 1 else []
        if self.audio != 1:
            parts.append(f"audio {_told(self.audio, self.audio_sigma_min, self.audio_sigma_max)}")
        if self.auto != 1:
            parts.append(f"auto {_told(self.auto, self.auto_sigma_min, self.auto_sigma_max)}")
        if self.classifier:
            levels = self.classifier_sigma_min, self.classifier_sigma_max
            parts.append(f"classifier {_told(self.classifier, *levels)}")
        return ", ".join(parts) or "none"


def _told(weight: float, sigma_min: float, sigma_max: float) -> str:
    levels = [f"from σ = {sigma_min:g}"] * (sigma_min > 0) + [f"up to σ = {sigma_max:g}"] * (sigma_max < math.inf)
    return " ".join([f"{weight:g}", *levels])
