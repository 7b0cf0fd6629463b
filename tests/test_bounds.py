"""What is out of bounds is named, with its value."""

import pytest

from diffwave_sde.bounds import not_negative, ordered, positive


def test_numbers_within_their_bounds_pass():
    positive(a=1e-9, b=float("inf"))
    not_negative(a=0.0, b=2)
    ordered(low=0.1, high=0.2)


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda: positive(a=1.0, b=0.0), "^b = 0 must be positive$"),
        (lambda: positive(b=float("nan")), "^b = nan must be positive$"),
        (lambda: not_negative(a=0.0, b=-0.5), "^b = -0.5 must not be negative$"),
        (lambda: not_negative(b=float("nan")), "^b = nan must not be negative$"),
        (lambda: ordered(low=0.2, high=0.2), "^low = 0.2 and high = 0.2: need 0 < low < high$"),
        (lambda: ordered(low=0.0, high=0.2), "need 0 < low < high"),
    ],
)
def test_a_number_out_of_its_bounds_is_named(check, says):
    with pytest.raises(ValueError, match=says):
        check()
