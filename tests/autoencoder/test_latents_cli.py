"""Autoencoders and models of latents on the command line, as docs/latents.md says; and what they refuse."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from refusal import refusal

from diffwave_sde import audio, checkpoint
from diffwave_sde.autoencoder import Autoencoder
from diffwave_sde.cli import kinds, main
from diffwave_sde.editing import make_editor, prepare
from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM

PAGE = Path(__file__).parents[2] / "docs" / "latents.md"
SHARED = {
    "data": {"dataset": "drums", "root": "store", "count": 60, "length": 2000, "batch_size": 4, "workers": 0},
    "trainer": {
        "precision": "32-true", "accelerator": "cpu", "devices": 1, "logger": False, "val_check_interval": 2,
        "log_every_n_steps": 1, "max_steps": 2,
    },
}  # fmt: skip
NETWORK = {"class_path": "ConvAutoencoder", "init_args": {"widths": [8, 8], "strides": [5, 4]}}
BOTTLENECK = {
    "vae": {"class_path": "KL", "init_args": {"channels": 4}},
    "vq": {"class_path": "ResidualVQ", "init_args": {"channels": 4, "quantizers": 2, "codes": 8, "dim": 4}},
}
SMALL = {
    name: {"autoencoder": {**NETWORK, "init_args": {**NETWORK["init_args"], "bottleneck": one}}}
    for name, one in BOTTLENECK.items()
}
for name in BOTTLENECK:
    SMALL[name]["adversary"] = {"class_path": "Adversary", "init_args": {"windows": [64], "width": 4, "start": 1}}
SMALL["latent"] = {
    "net": {"class_path": "UNet", "init_args": {"channels": [8, 8], "factors": [5], "blocks": 1, "embedding": 8,
                                                "heads": 2}},
    "sampler": {"class_path": "DefaultSampler", "init_args": {"steps": 3}},
}  # fmt: skip


CALLBACKS = "--trainer.callbacks=[{class_path: EMA}, {class_path: LastCheckpoint}]"


def run(command: str) -> None:
    """A line of the page, at small size."""
    _, *words = shlex.split(command)
    words = [word.replace("configs/", f"{kinds.CONFIGS}/") for word in words]
    if words[0] == "fit":
        words.append(f"--config=small-{words[words.index('--name') + 1]}.yaml")
    main([word.replace("=16", "=3") for word in words])


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder in which all commands of the page were run."""
    folder, patch = tmp_path_factory.mktemp("latents"), pytest.MonkeyPatch()
    patch.chdir(folder)
    for name, model in SMALL.items():
        heard = {
            "class_path": "SampleLogger" if name == "latent" else "ReconstructionLogger",
            "init_args": {"count": 3},
        }
        watched = [{"class_path": one} for one in ("EMA", "SpikeDetector", "MetricHistory", "LastCheckpoint")]
        trainer = {**SHARED["trainer"], "callbacks": [*watched, heard]}
        (folder / f"small-{name}.yaml").write_text(yaml.safe_dump({**SHARED, "trainer": trainer, "model": model}))
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 7
    for command in commands:
        run(command)
    yield folder
    patch.undo()


def figures(run: Path) -> dict[str, float]:
    """The last value of each figure of a run."""
    found = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        found |= json.loads(line)
    return found


def test_a_training_logs_the_parts_of_the_loss_and_of_codes_their_use_and_is_heard(here):
    vae, vq = figures(here / "runs" / "vae"), figures(here / "runs" / "vq")
    assert {"val/loss", "val/stft", "val/l1", "val/bottleneck", "train/grad_norm", "train/discrimination"} <= vae.keys()
    assert "val/perplexity" not in vae
    assert 1 / 8 <= vq["val/codebook_usage"] <= 1
    assert 1 <= vq["val/perplexity"] <= 8
    samples = here / "runs" / "vq" / "samples"
    rows = sorted(file.name for file in (samples / "data").glob("*.wav"))
    assert len(rows) == 3
    assert rows == sorted(file.name for file in (samples / "step=2").glob("*.wav"))
    assert checkpoint.kind_of(here / "runs" / "vq" / "checkpoints" / "last.ckpt") == "autoencoder"


def test_a_model_of_latents_is_one_model_without_the_run_that_it_came_from(here, monkeypatch, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copytree(here / "runs" / "latent", tmp_path / "runs" / "latent")
    shutil.copytree(here / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    main(["export", "--ckpt=runs/latent", "--out=given", "--dtype=float32"])
    for name, ckpt in {"own": "runs/latent", "given": "given", "half": "models/latent"}.items():
        main(["sample", f"--ckpt={ckpt}", "--n=3", f"--out=sounds/{name}"])

    def sounds(name):
        return [file.read_bytes() for file in sorted((tmp_path / "sounds" / name).glob("*.wav"))]

    assert len(sounds("own")) == 3
    assert sounds("own") == sounds("given")
    assert len(sounds("half")) == 3
    assert "runs" not in (tmp_path / "given" / "config.yaml").read_text()
    main(["fit", "--ckpt_path=runs/latent", "--trainer.max_steps=3", "--data.root=store"])
    assert checkpoint.load("runs/latent", latent=True).step == 3


def test_a_graph_of_latents_has_its_decoder_beside_it_and_is_replaced_when_asked_to(here, capsys):
    main(["export", "--ckpt=runs/latent", "--format=program", "--out=graphs", "--length=1990"])
    assert "graphs/model.pt2, decoder.pt2: " in capsys.readouterr().out.replace("\n", "")
    folder = here / "graphs"
    names = ["README.md", "config.yaml", "decoder.pt2", "model.pt2", "sampling.json"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert "`decoder.pt2` makes the sounds x (B, 1, T)" in (folder / "README.md").read_text()
    table = json.loads((folder / "sampling.json").read_text())
    z = torch.randn(3, 1, table["state"])
    latents = checkpoint.load("runs/latent", latent=True).module.latents
    decode = torch.export.load(folder / table["decoder"]).module()
    torch.testing.assert_close(decode(z), latents.decode(z, 1990))
    main(["export", "--ckpt=runs/latent", "--out=graphs", "--overwrite"])
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.yaml", "model.safetensors"]


def test_an_autoencoder_is_had_again_from_its_run_its_export_and_a_model_of_its_latents(here):
    x = torch.randn(2, 1, 2000)
    run = checkpoint.load_autoencoder("runs/vae").module
    assert isinstance(run, Autoencoder)
    assert not run.training
    main(["export", "--ckpt=runs/vae", "--out=given", "--dtype=float32", "--overwrite"])
    for other in ("given", "runs/latent"):
        assert torch.equal(checkpoint.load_autoencoder(other).module.encode(x), run.encode(x)), other
    with pytest.raises(ValueError, match="its layout is another than"):
        checkpoint.load_autoencoder("runs/vae").fill(checkpoint.load_autoencoder("runs/vq").module)
    assert "codes" in (here / "models" / "vq" / "README.md").read_text()


def test_a_training_that_was_stopped_ends_with_the_weights_of_one_that_was_not(here):
    for name, steps in (("whole", [4]), ("stopped", [2, 4])):
        for n in steps:
            config = f"--config={kinds.CONFIGS / 'experiment' / 'vq-vae.yaml'}"
            new = [config, "--config=small-vq.yaml", f"--name={name}", "--model.scheduler=null", CALLBACKS]
            more = new if n == steps[0] else [f"--ckpt_path=runs/{name}"]
            main(["fit", *more, f"--trainer.max_steps={n}"])
    one, two = (torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "stopped"))
    assert one["global_step"] == two["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(x, two[part][name]) for name, x in one[part].items())


def test_spikes_of_an_autoencoder_are_kept_with_their_clips(here):
    detector = "{class_path: SpikeDetector, init_args: {threshold: 0.001, window: 4, warmup: 2, keep: 1}}"
    spikes = f"[{detector}, {{class_path: ReconstructionLogger, init_args: {{count: 3}}}}]"
    config = kinds.CONFIGS / "experiment" / "vae.yaml"
    main(["fit", f"--config={config}", "--config=small-vae.yaml", f"--trainer.callbacks={spikes}", "--name=spiky",
          "--trainer.max_steps=12"])  # fmt: skip
    told = list((here / "runs" / "spiky" / "samples" / "spikes").glob("step=*/spike.json"))
    assert told
    clips = json.loads(told[0].read_text())["clips"]
    assert clips
    assert "σ" not in clips[0]["told"]


def test_a_sound_is_changed_by_what_it_is_made_of(here):
    x = 0.3 * torch.randn(4000, generator=stream(7))
    audio.write(here / "kick.wav", x)
    more = ["--ckpt=runs/latent", "--sampler=DDIM", "--sampler.steps=3"]
    main(["edit", "vary", "kick.wav", "--n=2", "--strength=0.4", "--out=edits/vary", *more])
    main(["edit", "interpolate", "kick.wav", "kick.wav", "--steps=3", "--out=edits/between", *more])
    one, two = (audio.decode(file)[0] for file in sorted((here / "edits" / "vary").glob("00*.wav")))
    assert one.shape == two.shape == x.shape
    assert not torch.equal(one, two)
    model = checkpoint.load("runs/latent", latent=True)
    # With hardly any noise what comes back is what the autoencoder makes of it.
    window = prepare(here / "kick.wav", model.length, model.rate).cut.window
    near, *_ = make_editor(model, sampler=DDIM(20)).vary(window, 1e-4)
    through = model.module.latents.decode(model.module.latents.encode(window[None, None]), model.length)[0, 0]
    assert float((near - through).square().mean().sqrt()) < 0.05 * float(through.square().mean().sqrt())
    main(["compare", "runs/latent", "runs/latent", "--n=1", "--out=beside"])
    main(["evaluate", "--ckpt=runs/latent", "--n=6", "--resamples=2", "--out=judged"])
    main(["kit", "--ckpt=runs/latent", "--kick=1", "--snare=0", "--cymbal=0", "--layers=2", "--out=kit", *more[1:]])


FIT = ["fit", f"--config={kinds.CONFIGS / 'experiment' / 'latent.yaml'}", "--config=small-latent.yaml", "--name=no"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--ckpt=runs/vae"], "is of an autoencoder, which makes no sounds"),
        (["sample", "--ckpt=runs/latent", "--clip=static"], "leave --clip out"),
        (["sample", "--ckpt=runs/latent", "--classifier=runs/vae"], "is not guided by it yet"),
        (["edit", "inpaint", "x.wav", "--mask=0.01-0.02", "--ckpt=runs/latent"], "which knows of no single samples"),
        (["edit", "vary", "x.wav", "--keep=attack", "--ckpt=runs/latent"], "which knows of no single samples"),
        (["likelihood", "--ckpt=runs/latent"], "is a model of latents, which cannot be taken here yet"),
        (["export", "--ckpt=runs/vae", "--out=g", "--format=onnx"], "is of an autoencoder; leave --format out"),
        ([*FIT, "--model.latent=nowhere"], "--model.latent: no checkpoint at nowhere"),
        (
            [*FIT, "--model.latent=runs/vae", "--data.length=3000"],
            "its length is 2000 samples and that of the data 3000",
        ),
        ([*FIT, "--model.latent=runs/vae", "--data.mu=255"], "its mu is 0 and that of the data 255"),
        ([*FIT, "--model.latent=runs/vae", "--model.net.front=MDCT"], "set --model.net.front=Fold"),
        ([*FIT, "--model.latent=runs/plain"], "is of a model of sounds, not of an autoencoder"),
        (["fit", "--init=runs/latent", "--data.root=store"], "is a model of latents"),
        (["fit", "--ckpt_path=runs/vae", "--kind=diffusion"], "leave --kind out"),
        (["fit", "--ckpt_path=runs/latent", "--model.latent=runs/vq"], "holds the autoencoder that it goes on with"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_what_will_not_do_is_told_in_one_line(arguments, words, here, capfd):
    if "--model.latent=runs/plain" in arguments and not (here / "runs" / "plain").exists():
        main([*FIT[:-1], "--name=plain", "--model.net.front=Waveform", CALLBACKS])
    audio.write(here / "x.wav", 0.1 * torch.randn(3000))
    assert words in refusal(arguments, capfd)


def test_an_autoencoder_of_another_rate_is_told_in_one_line(here, capfd):
    state = torch.load("runs/vae/checkpoints/last.ckpt", weights_only=True)
    state["diffwave_sde"]["rate"] = 48000
    torch.save(state, "other.ckpt")
    assert "its rate is 48000 Hz and that of the data 44100 Hz" in refusal([*FIT, "--model.latent=other.ckpt"], capfd)
