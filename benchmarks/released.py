"""The released code of SMARTIES as a rival in benchmarks: imported from a checkout; nothing of it is here.

The user clones the paper's repository to a folder outside of this one and names it: `--released FOLDER`.

Its model takes patches with the bands repeated to 12 and the number of the projection of each; its data set reads a
pair of BigEarthNet folders. Both are called as its own `main_pretrain.py` does.
"""

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from einops import rearrange
from torch import Tensor

from anyband.errors import InputError
from anyband.models.inputs import SetBatch

__all__ = ["BANDS_TILED", "ReleasedReader", "released_batch", "released_model"]

# Source: the released model repeats the bands of each image to so many.
BANDS_TILED = 12
_INPUT_PX, _PATCH_PX = 224, 16
_SENSORS = ("SENTINEL2-L2A", "SENTINEL1-GRD")


@contextlib.contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """Its modules have everyday names (`utils`), so they are imported from its folder only and then forgotten."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("utils", "models_smarties", "pretraining_dataset"):
                del sys.modules[name]


def _specs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with (folder / "config" / "electromagnetic_spectrum.yaml").open() as file:
        spectrum = yaml.safe_load(file)
    with (folder / "config" / "pretraining_sensors.yaml").open() as file:
        sensors = yaml.safe_load(file)
    return spectrum, sensors


def released_model(folder: Path, *, name: str, precision: str, img_size: int) -> torch.nn.Module:
    """Build its network with first weights of its own.

    Args:
        folder: checkout.
        name: of the builder, for example `smarties_vit_base_patch16`.
        precision: bf16 or float32; of the autocast that it will run under.
        img_size: side of the images, pixels.
    """
    spectrum, _ = _specs(folder)
    with _modules_of(folder), torch.random.fork_rng():
        torch.manual_seed(0)
        module: types.ModuleType = importlib.import_module("models_smarties")
        build = getattr(module, name)
        network: torch.nn.Module = build(
            spectrum_specs=spectrum,
            mixed_precision="bf16" if precision == "bf16" else "no",
            img_size=img_size,
            norm_pix_loss=True,
        )
    return network


def released_batch(folder: Path, pair: SetBatch, *, patch_size: int) -> tuple[Tensor, ...]:
    """Bring a batch of Sentinel-2 L2A and Sentinel-1 into the form that its network takes."""
    spectrum, sensors = _specs(folder)
    tensors, indices = [], []
    for image, sensor in zip(pair.groups, _SENSORS, strict=True):
        bands = [sensors[sensor]["bands"][index] for index in sensors[sensor]["selected_bands"]]
        if len(bands) != image.pixels.shape[1]:
            raise SystemExit(f"{sensor} has {len(bands)} bands there and {image.pixels.shape[1]} here")
        patches = rearrange(image.pixels, "b c (h p) (w q) -> b h w c p q", p=patch_size, q=patch_size)
        tensors.append(patches.repeat(1, 1, 1, BANDS_TILED // len(bands), 1, 1))
        numbers = torch.tensor([spectrum[band]["projection_idx"] for band in bands], dtype=torch.int32)
        grid = patches.shape[:3]
        indices.append(numbers.repeat(BANDS_TILED // len(bands)).expand(*grid, -1).contiguous())
    return (*tensors, *indices)


class ReleasedReader:
    """Samples as the released code makes them: read, normalised, cropped, resized and cut to patches."""

    def __init__(self, folder: Path, files: Path, *, pairs: int) -> None:
        """Make its data set of the pairs that `files` holds, as `S2/S2_NUMBER` and `S1/S1_NUMBER`.

        Raises:
            InputError: `folder` does not hold the released code.
        """
        if not (folder / "pretraining_dataset.py").is_file():
            raise InputError(f"'{folder}' is no checkout of SMARTIES: it has no 'pretraining_dataset.py'")
        listed = files / "released_pairs.txt"
        listed.write_text("".join(f"S2_{number:07d} S1_{number:07d}\n" for number in range(pairs)), encoding="utf-8")
        spectrum, sensors = _specs(folder)
        with _modules_of(folder):
            module = importlib.import_module("pretraining_dataset")
            self._pairs = module.BigEarthNetPairs(
                first_root_path=str(files / "S2"),
                second_root_path=str(files / "S1"),
                img_pair_list_path=str(listed),
                input_size=_INPUT_PX,
                sensor_specs=sensors,
                spectrum_specs=spectrum,
                patch_size=_PATCH_PX,
            )

    def read(self, number: int) -> tuple[Tensor, ...]:
        """Make one sample: what it hands to the device."""
        sample: tuple[Tensor, ...] = self._pairs[number]
        return sample
