"""Limits of the numbers in a configuration."""

from __future__ import annotations


def at_least(name: str, value: float, bound: float) -> None:
    """Refuse a number below a bound."""
    if value < bound:
        raise ValueError(f"{name}: expected at least {bound}; got {value}")


def positive(name: str, value: float) -> None:
    """Refuse a number that is not positive."""
    if value <= 0:
        raise ValueError(f"{name}: expected a positive number; got {value}")
