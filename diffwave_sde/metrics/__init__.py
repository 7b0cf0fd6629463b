"""Distances between sets of sounds, and what each set measures."""

from diffwave_sde.compatibility import announce
from diffwave_sde.metrics.agreement import Agreement, follow
from diffwave_sde.metrics.distances import Manifold, frechet, kernel, manifold, shrunk
from diffwave_sde.metrics.embeddings import Embedding, LogMel, aligned
from diffwave_sde.metrics.evaluation import MetricResult, SoundSet, evaluate
from diffwave_sde.metrics.learned import Learned
from diffwave_sde.metrics.measurements import MEASUREMENTS, Measurement, difference, measure
from diffwave_sde.metrics.pretrained import CLAP, VGGish

EMBEDDINGS: dict[str, type[Embedding]] = {"log-mel": LogMel, "learned": Learned}
"""By the name that an option gives."""

WITH_WEIGHTS: dict[str, type[Embedding]] = {"learned": Learned, "vggish": VGGish, "clap": CLAP}
"""Those that take weights of one's own, after the name and a =."""

CHOICES = ", ".join((*EMBEDDINGS, "learned=FILE", "vggish=FILE", "clap=FOLDER"))


def embedding(text: str) -> Embedding:
    """The embedding that an option asks for: a name, or NAME=FILE with weights of one's own.

    Raises:
        ValueError: if there is none of that name, or its weights are missing or of another layout.
    """
    name, equals, path = text.partition("=")
    if name == "learnt":
        announce("the embedding learnt", "learned")
        name, text = "learned", f"learned{equals}{path}"
    if path and name in WITH_WEIGHTS:
        return WITH_WEIGHTS[name](path)
    if text not in EMBEDDINGS:
        why = f"{text} needs weights of yours, {text}=..." if text in WITH_WEIGHTS else f"no embedding {text}"
        raise ValueError(f"{why}: choose of {CHOICES}")
    return EMBEDDINGS[text]()


__all__ = [
    "CHOICES",
    "CLAP",
    "EMBEDDINGS",
    "MEASUREMENTS",
    "WITH_WEIGHTS",
    "Agreement",
    "Embedding",
    "Learned",
    "LogMel",
    "Manifold",
    "Measurement",
    "MetricResult",
    "SoundSet",
    "VGGish",
    "aligned",
    "difference",
    "embedding",
    "evaluate",
    "follow",
    "frechet",
    "kernel",
    "manifold",
    "measure",
    "shrunk",
]
