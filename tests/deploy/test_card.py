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
