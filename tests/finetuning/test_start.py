"""A model of other classes begins with the weights of the one that it starts from, to the bit."""

from pathlib import Path

import pytest
import torch

from diffwave_sde.denoiser import Condition
from diffwave_sde.finetuning import Start, told
from diffwave_sde.model import Model
from diffwave_sde.networks import UNet
from diffwave_sde.sde import CLD, EDM, VDM

OLD, NEW = ("cymbal", "kick", "snare"), ("gong", "hats", "kicks")


def model(classes, sde=None, seed=1, **options):
    """A small model with random weights."""
    torch.manual_seed(seed)
    sde = sde or EDM()
    net = UNet(sde.blocks, classes, channels=(8, 8), factors=(2,), embedding=8, heads=2, **options)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    return Model(net, sde, sigma_data=0.25)


def start(old, labels=OLD):
    return Start("it", Path("it/model.safetensors"), old.denoiser, labels, 7, {})


def embedding(one):
    return one.denoiser.net.embed.label.weight


def test_all_weights_are_the_starting_models_and_each_class_has_the_row_that_it_starts_from():
    old, new = model(3), model(3, seed=2)
    sources = start(old).fill(new, NEW)
    assert sources == {"gong": (), "hats": ("cymbal",), "kicks": ("kick",)}
    theirs, mine = old.denoiser.net.state_dict(), new.denoiser.net.state_dict()
    table, known = mine.pop("embed.label.weight"), theirs.pop("embed.label.weight")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert torch.equal(table[[1, 2, 3]], known[[0, 1, 3]])
    torch.testing.assert_close(table[0], known[:3].mean(0))
    assert told(start(old), sources) == "fine-tuning it, step 7; classes: hats from cymbal, kicks from kick; new: gong"
    # As many classes, or not: the rows are by name, not by number.
    new = model(2, seed=2)
    start(old).fill(new, ("snare", "kick"))
    assert torch.equal(embedding(new), known[[2, 1, 3]])


def test_a_network_without_classes_says_for_any_class_what_it_said():
    old, new = model(0), model(2, seed=2)
    start(old, ()).fill(new, ("a", "b"))
    u, t = torch.randn(2, 1, 1, 64), torch.full((2,), 0.5)
    assert torch.equal(new.denoiser(u, t, Condition(torch.tensor([1, -1]))), old.denoiser(u, t))


def test_langevin_dynamics_start_from_langevin_dynamics_and_a_learned_process_goes_along():
    old, new = model(3, CLD()), model(3, CLD(), seed=2)
    start(old).fill(new, OLD)
    assert torch.equal(embedding(new), embedding(old))
    old, new = model(3, VDM()), model(3, VDM(), seed=2)
    with torch.no_grad():
        next(old.denoiser.sde.parameters()).add_(0.1)
    start(old).fill(new, OLD)
    assert all(map(torch.equal, new.denoiser.sde.parameters(), old.denoiser.sde.parameters()))


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (lambda: model(3, CLD(), seed=2), "takes 1 blocks of EDM, and CLD has 2: leave the process out"),
        (
            lambda: model(3, seed=2, blocks=1),
            "the network does not fit: down.0.1.after.2.bias is (8,) in the model and not there in the one asked for",
        ),
        (lambda: model(0, seed=2), "embed.label.weight is (4, 8) in the model and not there in the one asked for"),
    ],
)
def test_a_network_that_is_another_is_refused(new, words):
    with pytest.raises(ValueError, match="--init it: ") as error:
        start(model(3)).fill(new(), OLD)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
