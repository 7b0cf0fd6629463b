"""The card of an exported model: a page of facts, how it is used, and what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from diffwave_sde.cascade import CascadeModel
from diffwave_sde.checkpoint import RECIPE, LoadedAutoencoder, LoadedModel
from diffwave_sde.metrics import report
from diffwave_sde.names import listed


def facts(model: LoadedModel, recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a model is: the name of each fact, and the fact.

    Args:
        model: trained here, so that its loss is there.
        recipe: as `recipe.portable` makes it.
    """
    module, config = model.module, recipe["config"]
    yield "data set", f"{config['data'].get('dataset', 'not told')}; σ of the data {recipe['sigma_data']:.4g}"
    if told := recipe.get("licences"):
        yield "recordings", "; ".join(f"{clips} under {licence}" for licence, clips in told.items())
    start = recipe.get("started_from")
    while start:
        told = "; ".join(f"{clips} under {licence}" for licence, clips in start.get("licences", {}).items())
        yield "started from", f"{_markdown(start['name'])}, {start['step']:,} steps" + (f"; {told}" if told else "")
        start = start.get("started_from")
    yield "classes", _markdown(listed(model.labels)) if module.denoiser.net.classes else "none"
    companding = f"companded by mu-law, mu = {model.mu:g}" if model.mu else "not companded"
    seconds = f"{model.length:,} samples ({model.length / model.rate:.3f} s)"
    yield "sounds", f"mono, {model.rate:,} Hz, {seconds}, {companding}"
    if module.latents is not None:
        one = module.latents.autoencoder
        yield (
            "latents",
            f"{type(one).__name__}, {one.channels} numbers for {one.ratio} samples; it is part of the model",
        )
    if isinstance(module, CascadeModel):
        lengths = ", ".join(f"{n:,}" for n in module.lengths(model.length))
        yield "stages", f"{', '.join(module.names)}, of {lengths} samples; handed over {module.handover}"
    yield "process", type(module.denoiser.sde).__name__
    yield "parametrization", type(module.denoiser.parametrization).__name__
    yield "loss", f"{type(module.loss).__name__}, {type(module.loss.weight).__name__}"
    yield "network", type(module.denoiser.net).__name__
    if module.denoiser.weak is not None:
        yield "weak network", type(module.denoiser.weak.net).__name__
    yield "trained", f"{model.step:,} steps"
    yield "version", f"diffwave-sde {recipe.get('version', 'unknown')}"
    sampler = module.sampler.resolve(module.denoiser.sde)
    steps = sampler.steps
    yield "sampler", type(sampler).__name__ + (f", {steps} steps" if steps else "")
    yield "guidance", str(module.guided() or "none")
    yield "weights", f"{sum(p.numel() for p in module.exported.parameters()):,}, averaged over the training"


def card(name: str, model: LoadedModel, use: str, rows: Iterable[tuple[str, str]]) -> str:
    """The page, in Markdown.

    Args:
        name: of the export.
        model: that is exported.
        use: how it is used, in which `{name}` stands for the name.
        rows: the facts.
    """
    classes = f": {_markdown(listed(model.labels))}" if model.module.denoiser.net.classes else ""
    return (
        f"# {name}\n\nA diffusion model of short sounds{classes}. {RECIPE} tells all that it was made with.\n\n"
        f"{use.replace('{name}', name)}\n\n" + _table(("", ""), rows)
    )


def autoencoder_facts(model: LoadedAutoencoder, recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What an autoencoder is: the name of each fact, and the fact."""
    one = model.module
    yield "data set", recipe["config"]["data"].get("dataset", "not told")
    yield "sounds", f"mono, {model.rate:,} Hz, {model.length:,} samples ({model.length / model.rate:.3f} s)"
    yield "latents", f"{one.channels} numbers for {one.ratio} samples"
    if one.codes:
        yield "codebooks", f"{len(one.codes)} of {one.codes[0]:,} codes; {one.bitrate(model.rate) / 1000:.3g} kbit/s"
    yield "trained", f"{model.step:,} steps"
    yield "version", f"diffwave-sde {recipe.get('version', 'unknown')}"
    yield "weights", f"{sum(p.numel() for p in one.parameters()):,}, averaged over the training"


def autoencoder_card(name: str, model: LoadedAutoencoder, rows: Iterable[tuple[str, str]]) -> str:
    """The page of an autoencoder, in Markdown."""
    use = f"```sh\ndiffwave-sde fit --config configs/experiment/latent.yaml --model.latent={name}\n```"
    return (
        f"# {name}\n\nAn autoencoder of short sounds: {_markdown(listed(model.labels))}. {RECIPE} tells all that it "
        f"was made with.\n\n{use}\n\n" + _table(("", ""), rows)
    )


def figures(found: dict[str, Any]) -> str:
    """The part of the card that an evaluation fills: every figure beside its floor.

    Args:
        found: as `report.read_json` gives it.
    """
    text = (
        "\n## Measured\n\nEach figure ± its spread over resamplings; after it the floor, the same figure of real "
        "sounds against other real sounds.\n"
    )
    for metrics in report.metric_tables(found):
        head = [metrics.embedding, *(f"{_markdown(part)} ({count})" for part, count in metrics.parts)]
        text += "\n" + _table(head, ([title, *map(_figure, cells)] for title, cells in metrics.rows))
    rows = ((row.name, _number(row.difference), _number(row.floor)) for row in report.measurement_rows(found))
    text += "\n" + _table(("measurement", "difference", "floor"), rows)
    near, twins = report.neighbour_lines(found)
    return text + f"\n{near[:1].upper()}{near[1:]}; {twins}.\n"


def _markdown(name: str) -> str:
    """A name as it reads, whatever of it Markdown would take for a sign of its own; `_table` sees to |."""
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", name)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |\n"

    head = list(head)
    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))


def _figure(figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return ""
    value, spread, floor = (_number(figure[key]) for key in ("value", "spread", "floor"))
    return f"{value} ± {spread} ({floor})"


def _number(x: float | None) -> str:
    return "none" if x is None else f"{x:.{1 if abs(x) >= 10 else 3}f}"
