"""A model without its package: the graph against the denoiser, the loop of numbers against the samplers."""

import pytest
import torch
from torch import nn

from diffwave_sde import audio
from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.deploy import graph, table
from diffwave_sde.guidance import Guidance
from diffwave_sde.networks import MDCT, UNet
from diffwave_sde.parametrization import Epsilon, V
from diffwave_sde.random import randn, stream
from diffwave_sde.samplers import DDIM, ConsistencySampler, DefaultSampler, DPMSolver2M, DPMSolverSDE, Heun, JumpGrid
from diffwave_sde.samplers.grids import TimesGrid
from diffwave_sde.sde import CLD, EDM, VP

onnxruntime = pytest.importorskip("onnxruntime")
from diffwave_sde.deploy import sample as player  # noqa: E402  it needs onnxruntime

LENGTH = 1_000
PROCESSES = {"edm": (EDM, None), "vp": (VP, V), "cld": (CLD, Epsilon)}


def model(process: str) -> Denoiser:
    sde, parametrization = PROCESSES[process]
    sde = sde()
    torch.manual_seed(0)
    options = {"channels": (8, 12, 16), "factors": (2, 5), "blocks": 1, "embedding": 16, "position": 4, "heads": 2}
    net = UNet(sde.blocks, 3, MDCT(20), multiresolution=True, **options)
    for parameter in net.parameters():  # those that start at zero too
        nn.init.normal_(parameter, std=0.1)
    return Denoiser(net, sde, parametrization and parametrization(), 0.2).eval().requires_grad_(False)


def with_weak(process: str) -> Denoiser:
    """The same, and a weak one beside it."""
    denoiser, weak = model(process), model(process)
    for i, parameter in enumerate(weak.parameters()):
        parameter.mul_(1 + 0.1 * (-1) ** i)
    denoiser.weak = weak
    return denoiser


def asked(sde, batch: int):
    t = torch.linspace(sde.t_min, sde.t_max, batch, dtype=torch.float64)
    u = (
        randn((batch, sde.blocks, 1, LENGTH), stream("u"))
        * (1 + 10 * torch.rand(batch, generator=stream("s")))[:, None, None, None]
    )
    return u, t, torch.arange(batch) % 4 - 1


@pytest.mark.parametrize("process", PROCESSES)
def test_a_program_is_the_denoiser_for_any_number_of_sounds(process, tmp_path):
    denoiser = model(process)
    graph.save_program(graph.DenoiserGraph(denoiser, LENGTH), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 2, 5):
        u, t, label = asked(denoiser.sde, batch)
        expected = denoiser(u, t, Condition(label=label))
        assert torch.allclose(program(u, t, label), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("process", ["edm", "cld"])
def test_onnxruntime_makes_the_sounds_of_torch(process, tmp_path):
    denoiser = model(process)
    graph.save_onnx(graph.DenoiserGraph(denoiser, LENGTH), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])

    def runtime(u, t, label):
        return session.run(None, {"u": u, "t": t, "label": label})[0]

    for batch in (1, 3):
        error = difference(denoiser, DefaultSampler(12), None, runtime, batch)
        assert error < 1e-4  # the bound; it is below 1e-6


def difference(denoiser, sampler, guidance, call=None, batch=3, weak=None):
    """The largest difference of any sample between a sampler and the loop of numbers, of sounds of the order of 1."""

    def torch_graph(one):
        return lambda *asked: graph.DenoiserGraph(one, LENGTH)(*map(torch.from_numpy, asked)).numpy()

    if denoiser.weak is not None:
        weak = weak or torch_graph(denoiser.weak)

    label = torch.arange(batch) % 3
    u = denoiser.sde.prior((batch, 1, LENGTH), streams := [stream("noise", i) for i in range(batch)])
    expected = sampler(guidance(denoiser) if guidance else denoiser, u, Condition(label=label), streams)[:, 0]
    streams = [stream("noise", i) for i in range(batch)]
    numbers = {"length": LENGTH, **table.sampling(denoiser, sampler, guidance)}
    plan = numbers["plans"][str(numbers["default"])]
    call = call or torch_graph(denoiser)
    found = player.sample(call, numbers, label.numpy(), lambda shape: randn(shape, streams).numpy(), plan, weak)
    assert expected.std() > 0.01
    return (torch.from_numpy(found) - expected).abs().max() / expected.abs().max()


@pytest.mark.parametrize(("process", "sampler"), [
    ("edm", DPMSolverSDE(9, eta=0.3)), ("edm", DPMSolver2M(9)), ("vp", DDIM(9, eta=0.5)), ("vp", DefaultSampler(9)),
    ("cld", DDIM(9)), ("edm", DPMSolver2M(3, TimesGrid([1.0, 0.1, 0.001]))),
    ("edm", ConsistencySampler(1)), ("vp", ConsistencySampler(4)), ("cld", ConsistencySampler(3)),
    ("edm", DDIM(4, JumpGrid())),
], ids=lambda x: x if isinstance(x, str) else type(x).__name__)  # fmt: skip
def test_a_table_and_a_loop_are_the_sampler(process, sampler):
    denoiser = model(process)
    assert difference(denoiser, sampler, None) < 1e-5


def test_the_loop_leads_where_the_guidance_does():
    denoiser = model("edm")
    guidance = Guidance(3.0, sigma_min=1.0)
    acts = table.sampling(denoiser, DefaultSampler(9), guidance)["plans"]["9"]["guided"]
    assert 0 < sum(acts) < 9
    assert acts == sorted(acts, reverse=True)
    assert difference(denoiser, DefaultSampler(9), guidance) < 1e-5
    weaker = with_weak("edm")
    guidance = Guidance(3.0, sigma_min=1.0, auto=2.0, auto_sigma_min=0.1, auto_sigma_max=10.0)
    plan = table.sampling(weaker, DefaultSampler(9), guidance)["plans"]["9"]
    assert plan["guided"] == acts
    assert 0 < sum(plan["auto"]) < 9
    assert plan["auto"] != acts
    assert difference(weaker, DefaultSampler(9), guidance) < 1e-5
    # Another weak network would be far off.
    assert difference(weaker, DefaultSampler(9), guidance, weak=lambda u, t, label: 0 * u[:, 0]) > 1e-2
    unled = table.sampling(denoiser, DefaultSampler(9), None)
    assert unled["guidance"] == 1
    assert not any(unled["plans"]["9"]["guided"])


def test_a_table_for_each_number_of_steps_goes_along():
    denoiser = model("edm")
    found = table.sampling(denoiser, DefaultSampler(35), None)
    assert {int(k): len(v["times"]) for k, v in found["plans"].items()} == {10: 10, 20: 20, 35: 35, 50: 50}
    assert found["default"] == 35
    few = table.sampling(denoiser, ConsistencySampler(3), None)
    assert {int(k): len(v["times"]) for k, v in few["plans"].items()} == {1: 1, 2: 2, 3: 3, 4: 4, 8: 8}
    assert list(table.sampling(denoiser, DDIM(4, JumpGrid()), None)["plans"]) == ["4", "2", "8"]
    assert list(table.sampling(denoiser, DDIM(4, JumpGrid()), None, taught=4)["plans"]) == ["4"]
    assert list(table.sampling(denoiser, DPMSolver2M(2, TimesGrid([1.0, 0.1])), None)["plans"]) == ["2"]


def test_a_sampler_that_is_no_table_is_refused():
    with pytest.raises(ValueError, match=r"Heun cannot be written as a table.*DPMSolver2M"):
        table.sampling(model("edm"), Heun(9), None)


def test_companding_is_undone():
    y = torch.linspace(-1.1, 1.1, 101, dtype=torch.float64)
    for mu in (0, 255.0):
        assert torch.allclose(torch.from_numpy(player.expand(y.numpy(), mu)), audio.expand(y, mu), atol=1e-12)
