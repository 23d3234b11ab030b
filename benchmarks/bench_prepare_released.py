"""One pass of the released reader of SMARTIES, from a checkout of it that the user has."""

import importlib
import sys
from pathlib import Path
from typing import Any

import yaml

from anyband.errors import InputError

__all__ = ["ReleasedReader"]

_INPUT_PX, _PATCH_PX = 224, 16


class ReleasedReader:
    """Samples as the released code makes them: read, normalised, cropped, resized and cut to patches."""

    def __init__(self, checkout: Path, folder: Path, *, pairs: int) -> None:
        """Load the released dataset class over the pairs of `folder`.

        Raises:
            InputError: `checkout` does not hold the released code.
        """
        if not (checkout / "pretraining_dataset.py").is_file():
            raise InputError(f"'{checkout}' is no checkout of SMARTIES: it has no 'pretraining_dataset.py'")
        listed = folder / "released_pairs.txt"
        listed.write_text("".join(f"S2_{number:07d} S1_{number:07d}\n" for number in range(pairs)), encoding="utf-8")
        sys.path.insert(0, str(checkout))
        module: Any = importlib.import_module("pretraining_dataset")
        self._pairs = module.BigEarthNetPairs(
            first_root_path=str(folder / "S2"),
            second_root_path=str(folder / "S1"),
            img_pair_list_path=str(listed),
            input_size=_INPUT_PX,
            patch_size=_PATCH_PX,
            sensor_specs=_read(checkout / "config" / "pretraining_sensors.yaml"),
            spectrum_specs=_read(checkout / "config" / "electromagnetic_spectrum.yaml"),
        )

    def read(self, number: int) -> None:
        """Make one sample."""
        self._pairs[number]


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
