"""Draft and refine: what is left of a draft, what it costs, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusal import refusal
from truth import MIXTURE, Mixture, exact

from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.cli import main
from diffwave_sde.drafts import Draft
from diffwave_sde.model import Model
from diffwave_sde.networks import UNet
from diffwave_sde.parametrization import Karras
from diffwave_sde.samplers import DDIM, LogSNRGrid
from diffwave_sde.sde import EDM

LENGTH = 400


def model(law: Mixture, steps: int) -> LoadedModel:
    """A model of independent samples of a law, with the exact denoiser."""
    net = UNet(1, 0, channels=(8, 8), factors=(5,), blocks=1, embedding=8, heads=2)
    module = Model(net, EDM(), sampler=DDIM(steps, LogSNRGrid(), eta=1.0), sigma_data=law.std)
    module.denoiser = exact(module.denoiser.sde, Karras(), law, law.std)
    module.denoiser.net.classes = 0
    return LoadedModel(module.eval(), ("sound",), 44_100, LENGTH, 0.0, 0, Path("model.ckpt"))


WRONG = Mixture(MIXTURE.weights.tolist(), (MIXTURE.means + 2.0).tolist(), MIXTURE.stds.tolist())
OTHERS = [({"length": 5}, "a length of 5"), ({"rate": 8_000}, "a rate of 8000"), ({"labels": ("a",)}, "other classes")]


def made(draft: Draft | None, count: int = 20, steps: int = 100) -> torch.Tensor:
    one = model(MIXTURE, steps)
    sampler = one.module.sampler
    generators = one.module.generators(range(count), 1)
    if draft is None:
        return one.module.sample(LENGTH, torch.full((count,), -1), generators)
    return draft.sample(one, sampler, None, (), LENGTH, torch.full((count,), -1), generators)


def test_little_noise_leaves_the_draft_and_much_leaves_none_of_a_wrong_one():
    mean = float((MIXTURE.weights * MIXTURE.means).sum())
    drafter = model(WRONG, 40)
    kept = made(Draft(drafter, 1e-3))
    gone = made(Draft(drafter, 0.99))
    assert float(kept.mean()) == pytest.approx(mean + 2, abs=0.1)
    assert abs(float(gone.mean()) - mean) < 4 * MIXTURE.std / math.sqrt(20 * LENGTH) + 0.05
    assert float(gone.std()) == pytest.approx(MIXTURE.std, rel=0.05)


def test_a_draft_of_the_right_law_is_of_it_at_every_strength_and_less_noise_costs_fewer_calls():
    drafter, calls = model(MIXTURE, 40), []
    for strength in (0.3, 0.8):
        one = model(MIXTURE, 100)
        generators = one.module.generators(range(20), 1)
        draft, sampler = Draft(drafter, strength), one.module.sampler
        x = draft.sample(one, sampler, None, (), LENGTH, torch.full((20,), -1), generators)
        assert float(x.std()) == pytest.approx(MIXTURE.std, rel=0.05)
        calls.append(sampler.nfe)
    assert 40 < calls[0] < calls[1] < 140


def test_the_command_makes_drafts_and_says_so(tmp_path):
    main(["sample", "--ckpt=drums", "--draft=drums-fast", "--strength=0.2", "--n=2", f"--out={tmp_path / 'out'}"])
    record = json.loads((tmp_path / "out" / "sounds.json").read_text())
    assert (record["strength"], Path(record["draft"]).parent.name) == (0.2, "drums-fast")
    assert len(list((tmp_path / "out").glob("*.wav"))) == 2


def test_what_cannot_be_refined_is_told_in_one_line(capfd):
    one = ["sample", "--ckpt=drums"]
    assert "strength = 1 must lie between 0" in refusal([*one, "--draft=drums", "--strength=1"], capfd)
    assert "--draft no checkpoint at nowhere" in refusal([*one, "--draft=nowhere"], capfd)
    one = model(MIXTURE, 4)
    for change, words in OTHERS:
        with pytest.raises(ValueError, match=words):
            Draft(replace(one, **change)).check(one, one.module.sampler)
