"""One transformer encoder for every Earth-observation sensor.

The names below are loaded when they are first used, so that `import anyband` is quick.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyband.data.store import ChipStore
    from anyband.encode.encoder import SensorEncoder, load_encoder
    from anyband.encode.metadata import EncodeOptions, Features, ImageMetadata, SetImage
    from anyband.pretraining.loop import pretrain
    from anyband.pretraining.recipe import PretrainRecipe, load_recipe
    from anyband.sensors.assignment import AssignmentRules, assign
    from anyband.sensors.catalogue import get_sensor, list_sensors, load_sensor_file
    from anyband.sensors.ranges import load_ranges

__version__ = "0.1.0"
__all__ = [
    "AssignmentRules",
    "ChipStore",
    "EncodeOptions",
    "Features",
    "ImageMetadata",
    "PretrainRecipe",
    "SensorEncoder",
    "SetImage",
    "__version__",
    "assign",
    "get_sensor",
    "list_sensors",
    "load_encoder",
    "load_ranges",
    "load_recipe",
    "load_sensor_file",
    "pretrain",
]

_HOMES = {
    "AssignmentRules": "sensors.assignment",
    "ChipStore": "data.store",
    "EncodeOptions": "encode.metadata",
    "Features": "encode.metadata",
    "ImageMetadata": "encode.metadata",
    "PretrainRecipe": "pretraining.recipe",
    "SensorEncoder": "encode.encoder",
    "SetImage": "encode.metadata",
    "assign": "sensors.assignment",
    "get_sensor": "sensors.catalogue",
    "list_sensors": "sensors.catalogue",
    "load_encoder": "encode.encoder",
    "load_ranges": "sensors.ranges",
    "load_recipe": "pretraining.recipe",
    "load_sensor_file": "sensors.catalogue",
    "pretrain": "pretraining.loop",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'anyband' has no attribute '{name}'")
    return getattr(importlib.import_module(f"anyband.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
