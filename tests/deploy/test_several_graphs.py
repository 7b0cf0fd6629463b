"""Models of several networks without their package: stages of a cascade, and latents with their decoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffwave_sde.autoencoder import FSQ, KL, ConvAutoencoder, ResidualVQ
from diffwave_sde.cascade import CascadeModel, Handover, bands
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.deploy import formats, graph
from diffwave_sde.deploy.cosine import Cosine
from diffwave_sde.deploy.table import numbers
from diffwave_sde.guidance import Guidance
from diffwave_sde.model import Model
from diffwave_sde.networks import MDCT, Network, UNet
from diffwave_sde.random import randn, stream
from diffwave_sde.samplers import DefaultSampler
from diffwave_sde.sde import EDM, VP

pytest.importorskip("onnxruntime")
from diffwave_sde.deploy import sample as player

LENGTH = 1_990  # no multiple of 20: what three stages make is cut
LABEL = torch.tensor([0, 1, 2])


class Small(Network):
    """Two convolutions, which hear all that a network is told; a graph of it is soon written."""

    def __init__(self, inputs: int):
        super().__init__()
        self.inputs, self.classes, self.told = inputs, 3, inputs == 2
        given = inputs * (1 + self.told)  # over their noise too
        self.first, self.last = (nn.Conv1d(*channels, 5, padding=2) for channels in ((given, 8), (8, 1)))
        self.by_class = nn.Embedding(4, 8)

    def forward(self, u, noise, condition):
        told = noise + condition.level if self.told else noise
        return self.last((self.first(u) + self.by_class(condition.label + 1)[..., None] + told[:, None, None]).tanh())


def shaken(module: nn.Module) -> LoadedModel:
    """A model whose weights are drawn, those too that start at zero; as if it had been trained."""
    torch.manual_seed(0)
    for one in module.denoisers:
        for parameter in one.net.parameters():
            nn.init.normal_(parameter, std=0.1)
    module.eval().requires_grad_(False)
    return LoadedModel(module, ("a", "b", "c"), 8_000, LENGTH, 0, 1, Path("none"))


def cascade(*up: Network, sde=EDM) -> LoadedModel:
    module = CascadeModel(
        Small(1), *up, factors=(5, 4)[: len(up)], sde=sde(), sampler=DefaultSampler(4), levels=(0.01, 0.5),
        handover=Handover(0.1), guidance=Guidance(3.0, sigma_min=0.5),
    )  # fmt: skip
    module.steps_trained.fill_(1)
    for k, stage in enumerate(module.stages):
        stage.sigma_data.fill_(0.3 / (1 + k))
        if k:
            stage.sigma_handed.fill_(0.3)
    return shaken(module)


def latent(bottleneck, led: bool = False) -> LoadedModel:
    autoencoder = ConvAutoencoder(bottleneck, (8, 8), (5, 4))
    for unit in autoencoder.modules():  # those that start at zero
        if isinstance(unit, nn.Conv1d) and not unit.weight.any():
            nn.init.normal_(unit.weight, std=0.1)
    if autoencoder.codes:
        autoencoder.train()(torch.randn(4, 1, 2_000))  # from which the codes start
    module = Model(
        Small(1), EDM(0.002, 80.0), sampler=DefaultSampler(4), autoencoder=autoencoder,
        sigma_data=1.0, weak=Small(1) if led else None, guidance=Guidance(2.0, auto=1.5),
    )  # fmt: skip
    module.latents.mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    module.latents.deviation.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    return shaken(module)


def played(play, model: LoadedModel, steps: int = 4) -> float:
    """How far what is played is from the model's own sounds of the same noise, over the largest of these."""
    with torch.inference_mode():
        expected = model.module.sample(LENGTH, LABEL, model.module.generators(range(3)))[:, 0].numpy()
    generators = model.module.generators(range(3))
    found = play(LABEL.numpy(), lambda shape: randn(shape, generators).numpy(), str(steps))
    assert expected.std() > 0.01
    assert found.shape == expected.shape == (3, LENGTH)
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_onnxruntime_makes_the_sounds_of_a_cascade(tmp_path):
    net = UNet(2, 3, MDCT(20), (8,), (), 1, bottleneck="none", embedding=8, told=True)
    model = cascade(net)
    formats.save_onnx(model, tmp_path, "float32", LENGTH)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"base.onnx", "middle.onnx", "sample.py", "sampling.json"}
    table, play = player.player(tmp_path)
    assert [stage["guidance"] for stage in table["stages"]] == [3.0, 1.0]
    assert [stage["length"] for stage in table["stages"]] == [398, 1_990]
    assert played(play, model) < 1e-4


@pytest.mark.parametrize("sde", [EDM, VP])
@pytest.mark.parametrize("handover", [Handover(0.1), Handover(0.2, truncated=True)], ids=str)
def test_the_numbers_of_the_stages_are_the_cascade(sde, handover):
    model = cascade(Small(2), Small(2), sde=sde)
    model.module.handover = handover
    table = numbers(model, LENGTH, "")
    assert [stage["length"] for stage in table["stages"]] == [100, 500, 2_000]
    first, *_, last = (stage["plans"]["4"] for stage in table["stages"])
    if handover.truncated:  # the last call of the base is that before the level
        assert len(first["times"]) == len(first["steps"]) < len(last["times"])
    graphs = [here(one.plain()) for _, one in graph.graphs(model.module, LENGTH)]
    assert played(lambda *asked: player.cascade(graphs, table, *asked), model) < 1e-5
    other = {**table, "handover": {**table["handover"], "level": 0.3}}
    assert played(lambda *asked: player.cascade(graphs, other, *asked), model) > 1e-3


def test_onnxruntime_makes_the_sounds_of_latents(tmp_path):
    model = latent(KL(4))
    formats.save_onnx(model, tmp_path, "float32", LENGTH)
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"model.onnx", "decoder.onnx"}
    table, play = player.player(tmp_path)
    assert (table["length"], table["state"], table["decoder"]) == (LENGTH, 400, "decoder.onnx")
    assert played(play, model) < 1e-4
    # Other moments would be heard.
    model.module.latents.deviation.fill_(1)
    assert played(play, model) > 1e-2


@pytest.mark.parametrize("bottleneck", [ResidualVQ(4, 2, 16, dim=3), FSQ(4, (5, 3))], ids=lambda x: type(x).__name__)
def test_onnxruntime_finds_the_codes_of_latents(bottleneck, tmp_path):
    latents = latent(bottleneck).module.latents
    graph.save_onnx(graph.DecoderGraph(latents, LENGTH), tmp_path / "decoder.onnx")
    z = randn((5, 1, 400), stream("z"))
    expected = latents.decode(z, LENGTH)
    found = torch.from_numpy(player.opened(tmp_path / "decoder.onnx")(z.numpy()))
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def here(function: nn.Module):
    """A graph in PyTorch, as `sample.py` calls those of onnxruntime."""

    def call(*asked, **more):
        with torch.no_grad():
            return function(*map(torch.from_numpy, (*asked, *more.values()))).numpy()

    return call


def loaded(file: Path):
    return here(torch.export.load(file).module())


def test_programs_are_the_graphs_of_a_cascade_and_of_latents(tmp_path):
    model = cascade(Small(2))
    formats.save_program(model, tmp_path, "float32", LENGTH)
    table = json.loads((tmp_path / "sampling.json").read_text())
    graphs = [loaded(tmp_path / stage["graph"]) for stage in table["stages"]]
    assert played(lambda *asked: player.cascade(graphs, table, *asked), model) < 1e-5
    model = latent(ResidualVQ(4, 2, 16), led=True)
    formats.save_program(model, tmp_path, "float32", LENGTH)
    table = json.loads((tmp_path / "sampling.json").read_text())
    denoise, weak, decode = (loaded(tmp_path / f"{name}.pt2") for name in ("model", "weak", "decoder"))

    def play(label, noise, steps):
        return decode(player.sample(denoise, table, label, noise, table["plans"][steps], weak)[:, None])[:, 0]

    assert played(play, model) < 1e-5


@pytest.mark.parametrize("length", [1, 2, 7, 20, 21, 105, 5 * 211, 21_000])
def test_a_transform_by_matrices_is_that_by_an_fft(length):
    x = randn((2, 2, length), stream("x"))
    for inverse, exact in ((False, bands.dct), (True, bands.idct)):
        error = (Cosine([length], inverse)(x) - exact(x.double())).abs().max()
        assert error < 1e-5, (inverse, float(error))


def test_a_length_whose_matrices_are_too_large_is_refused_with_one_that_will_do():
    model = cascade(Small(2), Small(2)).module
    with pytest.raises(ValueError, match=r"--length 50060: .* choose --length 50080"):
        list(graph.graphs(model, 50_060))  # the base has 2,503, a prime


def test_a_stage_that_was_never_trained_is_refused():
    model = cascade(Small(2))
    model.module.steps_trained[1] = 0
    with pytest.raises(ValueError, match="the stage middle was never trained"):
        list(graph.graphs(model.module, LENGTH))
