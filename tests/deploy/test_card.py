"""The card of an exported model."""

from diffwave_sde import checkpoint
from diffwave_sde.deploy import card
from diffwave_sde.model import KEY
from diffwave_sde.module import DiffusionModule


def test_the_card_names_whose_recordings_were_learned_from():
    model = checkpoint.load("drums", kind=DiffusionModule)
    recipe = checkpoint.read(model.path)[KEY]
    told = {**recipe, "licences": {"CC0 (A. Person)": 3, "MIT (B)": 2}}
    assert ("recordings", "3 under CC0 (A. Person); 2 under MIT (B)") in list(card.facts(model, told))
    assert "recordings" not in dict(card.facts(model, recipe))


def test_the_card_names_all_models_that_it_started_from():
    model = checkpoint.load("drums", kind=DiffusionModule)
    first = {"name": "a_b", "step": 9000, "licences": {"MIT (B)": 2}}
    recipe = checkpoint.read(model.path)[KEY] | {"started_from": {"name": "c", "step": 5, "started_from": first}}
    told = [what for name, what in card.facts(model, recipe) if name == "started from"]
    assert told == ["c, 5 steps", "a\\_b, 9,000 steps; 2 under MIT (B)"]
