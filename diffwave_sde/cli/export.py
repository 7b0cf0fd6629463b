"""Write a model for others to use: a folder with its weights or its graphs, what they are, and a card of facts.

Nothing of this machine goes along: no path, and of the training no more than how it was done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from diffwave_sde import checkpoint
from diffwave_sde.checkpoint import RECIPE, LoadedAutoencoder, LoadedModel
from diffwave_sde.cli import guidance_options, runs
from diffwave_sde.cli.kinds import KINDS
from diffwave_sde.cli.path_options import parse
from diffwave_sde.deploy.export import CARD, Export
from diffwave_sde.deploy.formats import DTYPES, FORMATS


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde export", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("--ckpt", type=str, required=True, help="checkpoint, or a run's folder")
    guidance_options.add(p)
    p.add_argument("--out", type=str, required=True, help="folder to write, such as models/NAME")
    p.add_argument(
        "--format",
        type=Literal[tuple(FORMATS)],
        default="safetensors",
        help="safetensors, the weights, for this program; onnx, graphs for onnxruntime with a script that samples "
        "from them; program, graphs for torch.export.load",
    )
    p.add_argument(
        "--dtype",
        type=Literal[tuple(DTYPES)] | None,
        help="numbers of matrices; vectors are float32 (default: float16; graphs are float32)",
    )
    p.add_argument("--length", type=int | None, help="samples of a graph's sounds (default: those of the training)")
    p.add_argument(
        "--licence",
        type=str | None,
        help="the card's line on who may do what with it (default: what the card of an exported model says, else not "
        "stated)",
    )
    p.add_argument("--command", type=str | None, help="the card's line on the command that trained it")
    p.add_argument(
        "--evaluation", type=str | None, help="evaluation.json of `diffwave-sde evaluate`, for the card (default: none)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote (default: refuse)")
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde export`."""
    config = parse(parser(), argv[1:])
    export = Export(
        out=Path(config.out),
        evaluation=None if config.evaluation is None else Path(config.evaluation),
        **{name: config[name] for name in ("format", "dtype", "length", "licence", "command", "overwrite")},
    )
    what = checkpoint.kind_of(checkpoint.find(config.ckpt))
    if what == checkpoint.AUTOENCODER:
        return _autoencoder(export, config)
    kind = KINDS[what]
    # As it was trained: the card tells its loss.
    model = checkpoint.load(config.ckpt, kind=kind, weak=config.weak, cascade=True, latent=True)
    guidance = guidance_options.resolve_guidance(model, config)
    said = guidance_options.explicit_options(config)  # without any the recipe keeps the model's own, as it was written
    runs.writable(export.out.resolve().parent)
    with Console(stderr=True).status(f"writing {export.form.files(model)[0]}"):
        file = export.write(model, guidance if said else None, config.weak)
    _tell(file, export, model)


def _autoencoder(export: Export, config: Namespace) -> None:
    if config.weak or guidance_options.explicit_options(config):
        raise ValueError(f"{config.ckpt} is of an autoencoder, which nothing guides: leave --guidance and --weak out")
    model = checkpoint.load_autoencoder(config.ckpt)
    runs.writable(export.out.resolve().parent)
    _tell(export.write_autoencoder(model), export, model)


def _tell(file: Path, export: Export, model: LoadedModel | LoadedAutoencoder) -> None:
    files = ", ".join([str(file), *export.form.files(model)[1:]])
    print(f"{files}: {export.size(export.out)}, step {model.step:,}; {RECIPE} and {CARD} are beside it")
