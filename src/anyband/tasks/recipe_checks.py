"""What numbers of a recipe must satisfy: each check names the key, what was found and what is allowed."""

import math

from anyband.errors import InputError, RecipeError
from anyband.models.masking import count_visible

__all__ = [
    "need",
    "need_at_least",
    "need_between",
    "need_divides",
    "need_over_0",
    "need_visible",
    "need_width",
]


def need(holds: bool, message: str) -> None:
    """Refuse a recipe in which something does not hold."""
    if not holds:
        raise RecipeError(message)


def need_at_least(key: str, value: int | float, least: int) -> None:
    """Refuse a number under `least`, or one that is not finite."""
    need(value >= least, f"{key} must be at least {least}, found {value:g}")
    need(value < math.inf, f"{key} must be finite, found {value:g}")


def need_over_0(key: str, value: float) -> None:
    """Refuse a number that is not over 0, or not finite."""
    need(value > 0, f"{key} must be over 0, found {value:g}")
    need(value < math.inf, f"{key} must be finite, found {value:g}")


def need_between(key: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside the open interval."""
    need(low < value < high, f"{key} must be over {low:g} and under {high:g}, found {value:g}")


def need_divides(key: str, divisor: int, of_key: str, value: int) -> None:
    """Refuse a divisor that leaves a rest."""
    need(value % divisor == 0, f"{key} {divisor} does not divide {of_key} {value}")


def need_width(key: str, width: int, heads_key: str, num_heads: int) -> None:
    """Refuse a width that can't be cut into heads, or into quarters for the positions."""
    # Positions take a quarter of the width each for sine and cosine of row and column.
    need(width >= 4 and width % 4 == 0, f"{key} must be a multiple of 4, found {width}")
    need_divides(heads_key, num_heads, key, width)


def need_visible(mask_ratio: float, num_tokens: int) -> None:
    """Refuse a mask ratio that leaves nothing visible or nothing masked."""
    try:
        count_visible(num_tokens, mask_ratio)
    except InputError as problem:
        raise RecipeError(f"model.mask_ratio: {problem}") from problem
