"""Where commands write."""

import argparse
from pathlib import Path

__all__ = ["output_path"]


def output_path(text: str) -> Path:
    """Take a path of this machine; a URL would become a folder of that name.

    Raises:
        argparse.ArgumentTypeError: it is a URL.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"takes a path of this machine, found '{text}'; write to a folder, then copy it"
        )
    return Path(text)
