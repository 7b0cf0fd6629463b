"""Bounds of numbers that a user gives: one line that names what is out of them."""

from __future__ import annotations


def positive(**values: float) -> None:
    """Raise a ValueError unless each of the named numbers is positive."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} = {value:g} must be positive")


def not_negative(**values: float) -> None:
    """Raise a ValueError unless each of the named numbers is 0 or more."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} = {value:g} must not be negative")


def ordered(**bounds: float) -> None:
    """Raise a ValueError unless 0 < the first of two named numbers < the second."""
    (low_name, low), (high_name, high) = bounds.items()
    if not 0 < low < high:
        raise ValueError(f"{low_name} = {low:g} and {high_name} = {high:g}: need 0 < {low_name} < {high_name}")
