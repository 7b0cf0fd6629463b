"""A model written for others to use: a folder with its weights or its graphs, what they are, and a card of facts.

In Python::

    export = Export(Path("models/drums"), licence="CC0")
    file = export.write(checkpoint.load("runs/drums", kind=DiffusionModule))

Nothing of this machine goes along: no path, and of the training no more than how it was done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml

from diffwave_sde import checkpoint
from diffwave_sde.atomic import atomic_folder
from diffwave_sde.checkpoint import RECIPE, WEIGHTS, LoadedAutoencoder, LoadedModel
from diffwave_sde.deploy import card
from diffwave_sde.deploy.formats import FORMATS, HOLD_WEIGHTS, NUMBERS, SCRIPT, Format
from diffwave_sde.deploy.recipe import portable
from diffwave_sde.guidance import Guidance
from diffwave_sde.metrics import report
from diffwave_sde.model import KEY

CARD = "README.md"


@dataclass(frozen=True)
class Export:
    """What is written, and where; the options of `diffwave-sde export`, which errors name.

    out: the folder.
    format: a key of `FORMATS`.
    dtype: of the numbers of matrices; the format's first by default.
    length: samples of a graph's sounds; those of the training by default.
    licence: the card's line on who may do what with it; that of the exported model it comes from by default.
    command: the card's line on the command that trained it.
    evaluation: the evaluation.json that the card tells of.
    overwrite: whether what an earlier export wrote is replaced.

    Raises:
        FileExistsError: if something is there that must not be lost.
        FileNotFoundError: if there is no such evaluation.
        ValueError: if the format has not what is asked for, or the evaluation is none.
    """

    out: Path
    format: str = "safetensors"
    dtype: str | None = None
    length: int | None = None
    licence: str | None = None
    command: str | None = None
    evaluation: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        _check_output(self.out, self.overwrite)
        if self.format not in FORMATS:
            raise ValueError(f"--format {self.format}: choose of {', '.join(FORMATS)}")
        dtypes, file = self.form.dtypes, self.form.file
        if self.numbers not in dtypes:
            raise ValueError(f"--dtype {self.dtype}: {file} is in {' or '.join(dtypes)}; leave --dtype out")
        if self.length is not None and (self.length < 1 or file == WEIGHTS):
            raise ValueError(
                f"--length {self.length}: for graphs alone (--format onnx, program), and at least 1 sample"
            )
        _ = self.figures  # an evaluation that cannot be read is told of before a model is loaded

    @property
    def form(self) -> Format:
        """The format."""
        return FORMATS[self.format]

    @property
    def numbers(self) -> str:
        """The dtype, the default too."""
        return self.dtype or self.form.dtypes[0]

    @cached_property
    def figures(self) -> str:
        """What the card tells of the evaluation."""
        if self.evaluation is None:
            return ""
        try:
            return card.figures(report.read_json(self.evaluation))
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"--evaluation {error}") from None

    def write(self, model: LoadedModel, guidance: Guidance | None = None, weak: str | Path | None = None) -> Path:
        """Write the folder, whole or not at all; the file of the weights, or of the first graph.

        Args:
            model: loaded as a `DiffusionModule`: the card tells its loss. Left with the guidance that it is given.
            guidance: in place of its own.
            weak: the checkpoint that its weak network is of, if that is not its own.

        Raises:
            ValueError: if the model cannot be written so, or needs a file that others have not.
            OSError: if the folder cannot be written.
        """
        if self.form.file != WEIGHTS and model.module.denoiser.net.context != "none":
            raise ValueError(
                f"--format {self.format}: a graph hears no context, and {model.path} goes by one; leave --format out"
            )
        recipe = portable(checkpoint.read(model.path)[KEY], model)
        if weak is not None:
            theirs = checkpoint.read(checkpoint.find(weak))[KEY]["config"]["model"]
            recipe["config"]["model"]["weak"] = theirs["net"]
        if guidance is not None:
            model.module.guidance = guidance
            recipe["config"]["model"]["guidance"] = asdict(guidance)
        both = "; both are one model, which `diffwave-sde sample` takes" if self.form.file == WEIGHTS else ""
        page = partial(card.card, self.out.resolve().name, model, self.form.use(model))
        return self._write(model, recipe, both, card.facts(model, recipe), page)

    def write_autoencoder(self, model: LoadedAutoencoder) -> Path:
        """Write the folder of an autoencoder, which `--model.latent` takes; the file of its weights.

        Raises:
            ValueError: if the format is none for an autoencoder.
            OSError: if the folder cannot be written.
        """
        if self.form.file != WEIGHTS:
            raise ValueError(f"--format {self.format}: {model.path} is of an autoencoder; leave --format out")
        recipe = portable(checkpoint.read(model.path)[KEY], model)
        both = "; both are one autoencoder, which `diffwave-sde fit --model.latent` takes"
        page = partial(card.autoencoder_card, self.out.resolve().name, model)
        return self._write(model, recipe, both, card.autoencoder_facts(model, recipe), page)

    def _write(
        self,
        model: LoadedModel | LoadedAutoencoder,
        recipe: dict[str, Any],
        what: str,
        facts: Iterable[tuple[str, str]],
        page: Callable[[Iterable[tuple[str, str]]], str],
    ) -> Path:
        with atomic_folder(self.out) as folder:
            self.form.save(model, folder, self.numbers, self.length or model.length)
            files = self.form.files(model)
            is_ = f"{files[0]} is" if len(files) == 1 else f"{', '.join(files[:-1])} and {files[-1]} are"
            head = f"# What {is_}{what}.\n"
            text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
            (folder / RECIPE).write_text(head + text, encoding="utf-8")
            rows = [*facts, ("size", self.size(folder)), ("licence", self._licence(model))]
            if self.command:
                rows.append(("trained by", f"`{self.command}`"))
            (folder / CARD).write_text(page(rows) + self.figures, encoding="utf-8")
        return self.out / files[0]

    def _licence(self, model: LoadedModel | LoadedAutoencoder) -> str:
        return self.licence or checkpoint.licence(model.path) or "not stated"

    def size(self, folder: Path) -> str:
        """How large the weights or graphs in a folder are, in words."""
        files = (folder / name for name in sorted(HOLD_WEIGHTS))
        return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.1f} MB in {self.numbers}"


def _check_output(out: Path, overwrite: bool) -> None:
    """Raise an OSError of one line where something is that must not be lost."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file: choose another --out")
    if not overwrite:
        raise FileExistsError(f"{out} exists: add --overwrite to replace it, or choose another --out")
    own = {RECIPE, CARD, NUMBERS, SCRIPT, *HOLD_WEIGHTS}
    if foreign := sorted(p.name for p in out.iterdir() if p.name not in own):
        raise FileExistsError(f"{out} holds {foreign[0]}, which no export wrote: choose another --out, or move it")
