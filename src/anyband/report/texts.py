"""Texts that fit a picture: names cut in the middle, counts in few letters."""

__all__ = ["count_text", "shortened"]


def shortened(text: str, longest: int) -> str:
    """Cut the middle out of a text that is too long, because names of files differ at their ends.

    Args:
        text: any.
        longest: letters that fit, at least 3.
    """
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def count_text(count: int) -> str:
    """Write a count in at most five letters: `128`, `13 k`, `2.5 M`."""
    for size, sign in ((10**9, " G"), (10**6, " M"), (10**4, " k")):
        if count >= size:
            scaled = count / (1000 if size == 10**4 else size)
            return f"{scaled:.1f}{sign}" if scaled < 9.95 else f"{scaled:.0f}{sign}"
    return str(count)
