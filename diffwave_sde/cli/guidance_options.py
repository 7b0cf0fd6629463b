"""The options that say how far sounds are guided, `--guidance.*`, `--weak` and `--classifier`; what is unsaid is the
model's own."""

from __future__ import annotations

from dataclasses import fields, replace

from jsonargparse import ArgumentParser, Namespace

from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.guidance import Guidance

WEAK = "checkpoint, or a run's folder, of a weaker model for --guidance.auto (default: what was trained beside --ckpt)"

CLASSIFIER = (
    "checkpoint, or a run's folder, of a classifier that sounds are guided by, as far as --guidance.classifier says: 1 "
    "by default; train one with `make classifier` (default: none)"
)


def add_classifier(parser: ArgumentParser) -> None:
    """Give a parser `--classifier`."""
    parser.add_argument("--classifier", type=str | None, help=CLASSIFIER)


def add(parser: ArgumentParser) -> None:
    """Give a parser the options."""
    parser.add_class_arguments(Guidance, "guidance", instantiate=False)
    parser.set_defaults({f"guidance.{one.name}": None for one in fields(Guidance)})
    parser.groups["guidance"].title = "How far sounds are guided; what is left at null is as the model has it"
    parser.add_argument("--weak", type=str | None, help=WEAK)


def explicit_options(config: Namespace) -> dict[str, float]:
    """What was said of the guidance."""
    given = config.guidance.as_dict() if config.guidance else {}  # null, in a file
    return {name: value for name, value in given.items() if value is not None}


def resolve_guidance(model: LoadedModel, config: Namespace) -> Guidance | None:
    """The guidance that was asked for: the model's own but for what was said.

    Raises:
        ValueError: if both contradict each other, or autoguidance is asked for with half of what it takes.
    """
    own, given = model.module.guidance, explicit_options(config)
    if model.module.classifier is not None:
        given.setdefault("classifier", (own and own.classifier) or 1.0)
    elif given.get("classifier"):
        raise ValueError(
            f"--guidance.classifier {given['classifier']:g}: there is no classifier; add --classifier runs/NAME to "
            "`sample`, `edit` or `evaluate`, or leave it out"
        )
    guidance = replace(own or Guidance(weight=1.0), **given) if given else own
    if config.weak and (guidance is None or guidance.auto == 1):
        raise ValueError(f"--weak {config.weak} has no effect at a weight of 1: add --guidance.auto 1.5, say")
    if given.get("auto", 1) != 1 and model.module.denoiser.weak is None:
        raise ValueError(
            f"--guidance.auto {guidance.auto:g}: {model.path} has no weak network; give a weaker model, --weak "
            "runs/NAME/checkpoints/step=1000.ckpt for instance, or leave it out"
        )
    return guidance
