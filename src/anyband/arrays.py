"""Axis words of array annotations, sequences that make their items, and copies to the device."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8
from numpy import ndarray as Array  # noqa: N812 (an array of any shape; the annotation says which)

__all__ = ["Array", "Bool", "Float", "Int", "LazySequence", "Num", "Shaped", "UInt8"]


Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence that makes its items: says its length and makes one, by a number from 0; the rest follows."""

    @abstractmethod
    def make(self, number: int) -> Item:
        """Make an item.

        Args:
            number: from 0 to the length, exclusive.
        """

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | list[Item]:
        """Make an item, counted from the end where negative, or a list of several.

        Raises:
            IndexError: there is none of that number.
        """
        if isinstance(number, slice):
            return [self.make(one) for one in range(len(self))[number]]
        return self.make(range(len(self))[number])
