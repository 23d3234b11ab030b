"""Axis words of array annotations."""

from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8
from numpy import ndarray as Array  # noqa: N812 (an array of any shape; the annotation says which)

__all__ = ["Array", "Bool", "Float", "Int", "Num", "Shaped", "UInt8"]
