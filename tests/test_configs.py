"""Every YAML file of `configs/` makes what it says."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from diffwave_sde.checkpoint import build
from diffwave_sde.cli import kinds
from diffwave_sde.cli.kinds import CONFIGS, KINDS
from diffwave_sde.cli.lightning import CLI, _blocks, _fill
from diffwave_sde.sde import SDE

FILES = sorted(CONFIGS.rglob("*.yaml"))


def parsed(file: Path) -> CLI:
    """The command line of a training with this file, as far as its configuration."""

    class Parsed(CLI):
        def before_instantiate_classes(self):
            raise StopIteration  # the configuration is what matters here

    cli = Parsed.__new__(Parsed)
    with suppress(StopIteration):
        cli.__init__(["fit", "--config", str(file)])
    return cli


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CONFIGS)))
def test_every_configuration_makes_a_model_that_denoises_a_classifier_or_an_autoencoder(file):
    cli = parsed(file)
    options = cli.config["fit"]
    module_class = KINDS[cli.kind]
    _fill(options.model, inputs=_blocks(options.model.get("sde")), **{module_class.class_count: 3})
    with torch.device("meta"):
        module = build(cli._plain(options)["model"], module_class)
    others = [kind for kind in KINDS if kind in (file.parent.name, file.stem)]
    others += ["autoencoder"] * (file.stem in ("adversary", "vae", "vq-vae"))
    assert cli.kind == (others or ["diffusion"])[0]
    if cli.kind == "autoencoder":
        assert module.autoencoder.channels == 32
        assert sum(p.numel() for p in module.autoencoder.parameters()) > 3e5
        module.configure_optimizers()
        return
    if cli.kind == "classifier":
        assert module.classifier.classes == 3
        module.configure_optimizers()
        return
    assert isinstance(module.denoiser.sde, SDE)
    assert module.denoiser.net.inputs == module.denoiser.sde.blocks
    assert module.denoiser.net.classes == 3
    assert sum(p.numel() for p in module.denoiser.net.parameters()) > 1e6
    module.configure_optimizers()


PARTS = {"network": ["net", "weak"], "classifier": ["net"], "autoencoder": ["autoencoder"]}
PARTS["cascade"] = ["base", "middle", "top"]


@pytest.mark.parametrize("default", ["base", "tiny"])
@pytest.mark.parametrize(
    "file", [f for f in FILES if f.parent.name in PARTS], ids=lambda f: f"{f.parent.name}/{f.stem}"
)
def test_a_network_is_the_same_whichever_is_the_default(file, default, monkeypatch):
    # The default's file is read first, and which that is depends on the machine: nothing of it may be left.
    nets = []
    for first in (default, file.stem):
        monkeypatch.setattr(kinds, "default_network", lambda first=first: first)
        model = parsed(file).config["fit"].model
        nets.append([model[part] for part in PARTS[file.parent.name]])
    assert nets[0] == nets[1]


def test_difference_files_repeat_no_value_of_the_base():
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())

    def repeated(difference, whole, path=""):
        for key, value in difference.items():
            if isinstance(value, dict) and isinstance(whole.get(key), dict):
                yield from repeated(value, whole[key], f"{path}.{key}")
            elif key in whole and whole[key] == value and key != "class_path":
                yield f"{path}.{key}"

    for file in FILES:
        if file.name != "base.yaml" and file.parent.name != "data":
            assert not list(repeated(yaml.safe_load(file.read_text()), base)), file
