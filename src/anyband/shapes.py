"""Axis words for array annotations, so that a signature says what it takes.

The words, used in jaxtyping annotations throughout: `batch band row col` for images, `token` for patches on the
grid (row by row), `visible` and `masked` for the shares of them, `width` for embeddings, `range` for trained spectral
ranges, `pixel` for the pixels of one patch, `sample` for rows of a table.
"""

from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8
from numpy import ndarray as Array  # noqa: N812 (an array of any shape; the annotation says which)

__all__ = ["Array", "Bool", "Float", "Int", "Num", "Shaped", "UInt8"]
