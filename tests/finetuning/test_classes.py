"""Classes are matched by their names as drummers write them."""

import pytest

from diffwave_sde.finetuning import match

KICKS = ("kick", "Kicks", "BD", "bass drum", "BassDrums", "kick01", "deep_kicks", "808 Kick")
CYMBALS = ("hihat", "Hi-Hats", "HiHat_Closed", "crashes", "ride cymbal", "OHH", "splash")
DRUMS = ("cymbal", "kick", "snare")
KIT = ("closed_hat", "crash", "open_hat", "perc", "ride", "Toms")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            DRUMS,
            {
                **dict.fromkeys(KICKS, "kick"),
                **dict.fromkeys(("SNARES", "sd", "snare-drum", "snr 2"), "snare"),
                **dict.fromkeys(CYMBALS, "cymbal"),
                **dict.fromkeys(("tom", "bass", "kick+snare", "voice", "808", "", "hatchet"), None),
            },
        ),
        (
            KIT,
            {
                "Closed Hats": "closed_hat",
                "hat-open": "open_hat",
                "hihat": "closed_hat+open_hat",
                "cymbal": "closed_hat+crash+open_hat+ride",
                "floor tom": "Toms",
                "cowbell": "perc",
                "ride": "ride",
                "china": None,
            },
        ),
        ((), {"kick": None}),
        (("Kick", "kicks"), {"kicks": "kicks", "kick": "Kick+kicks"}),
        (("\\xe9", "808"), {"808": "808", "\\xe9": "\\xe9"}),
    ],
)
def test_a_class_starts_from_those_of_its_name_its_drum_or_its_kind(known, expected):
    found = {name: "+".join(old) or None for name, old in match(list(expected), known).items()}
    assert found == expected
