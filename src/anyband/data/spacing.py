"""Images of one source that are far enough apart in time: how many there can be, and how many more."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from anyband.data.footprints import UNKNOWN_TIME
from anyband.shapes import Array, Int

__all__ = ["are_apart", "most_with_each", "room_left"]


def are_apart(a_us: int, b_us: int, gap_us: int) -> bool:
    """Tell whether two images of one source may be taken together. An unknown time is apart only without a gap."""
    return gap_us == 0 or (UNKNOWN_TIME not in (a_us, b_us) and abs(a_us - b_us) >= gap_us)


def most_with_each(times_us: Int[Array, " image"], gap_us: int) -> list[int]:
    """Count, for each image of one source, the most that can be taken together with it, itself included.

    Images that are taken together are pairwise apart, see `are_apart`.

    Args:
        times_us: in order, unknown ones last.
        gap_us: least time between two images.
    """
    count = len(times_us)
    if gap_us == 0:
        return [count] * count
    known = [time for time in times_us.tolist() if time != UNKNOWN_TIME]
    forwards = _longest_ending(known, gap_us)
    backwards = _longest_ending([-time for time in reversed(known)], gap_us)[::-1]
    return [a + b - 1 for a, b in zip(forwards, backwards, strict=True)] + [1] * (count - len(known))


def room_left(times_us: Sequence[int], taken_us: Sequence[int], gap_us: int) -> int:
    """Count the most images of one source that can be taken beside those that are.

    Args:
        times_us: of all images of the source, in order, unknown ones last.
        taken_us: of those that are taken, in order; pairwise far enough apart.
        gap_us: least time between two images.
    """
    if gap_us == 0:
        return len(times_us) - len(taken_us)
    known = times_us[: bisect_left(times_us, UNKNOWN_TIME)]
    if not taken_us:
        return max(_greedy(known, gap_us), min(1, len(times_us)))
    if UNKNOWN_TIME in taken_us:
        return 0
    lows = [0, *(bisect_left(known, time + gap_us) for time in taken_us)]
    highs = [*(bisect_right(known, time - gap_us) for time in taken_us), len(known)]
    return sum(_greedy(known[low:high], gap_us) for low, high in zip(lows, highs, strict=True))


def _greedy(times_us: Sequence[int], gap_us: int) -> int:
    """Take the earliest that is far enough from the last one taken: nothing takes more."""
    count, position = 0, 0
    while position < len(times_us):
        count += 1
        position = bisect_left(times_us, times_us[position] + gap_us, position + 1)
    return count


def _longest_ending(times_us: Sequence[int], gap_us: int) -> list[int]:
    """Count, for each image, the most of it and earlier ones that are pairwise apart."""
    longest: list[int] = []
    for position, time in enumerate(times_us):
        before = bisect_right(times_us, time - gap_us, 0, position)
        # Later images end chains that are no shorter, so the last one before the gap ends the longest.
        longest.append(1 + (longest[before - 1] if before else 0))
    return longest
