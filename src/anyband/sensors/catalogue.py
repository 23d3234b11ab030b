"""The catalogue: every sensor that the package knows, and users' own from YAML files."""

import functools
from pathlib import Path

from anyband.errors import CatalogueError, nearest_name
from anyband.sensors.records import sensor_from_dict, sensor_to_dict
from anyband.sensors.sensor import Sensor
from anyband.sensors.table_files import read_mission

__all__ = [
    "find_sensor_name",
    "get_sensor",
    "list_sensors",
    "load_sensor_file",
    "resolve_sensor",
    "sensor_from_dict",
    "sensor_to_dict",
]

_FOLDER = Path(__file__).parent / "tables"


def list_sensors() -> tuple[str, ...]:
    """List the names of all sensors, in alphabetic order."""
    return tuple(sorted(_sensors()))


def get_sensor(name: str) -> Sensor:
    """Look up a sensor by its name or one of its aliases (case does not count).

    Raises:
        CatalogueError: no such sensor; the nearest name is offered.
    """
    found = find_sensor_name(name)
    if found is None:
        raise CatalogueError(
            f"there is no sensor '{name}' in the catalogue ({len(_sensors())} sensors)"
            f"{nearest_name(name, _spelt())}\n"
            "`anyband sensors` lists them; a sensor of your own is one YAML file, named by its path"
        )
    return _sensors()[found]


def find_sensor_name(name_or_alias: str) -> str | None:
    """Find the catalogue's name of a sensor, from its name or an alias in any case; None: there is none."""
    return _index().get(name_or_alias.casefold())


def load_sensor_file(path: Path) -> Sensor:
    """Load a user's own sensor from a YAML file of the catalogue's form that describes exactly one.

    Raises:
        CatalogueError: the file is wrong, holds several sensors, or takes a name that the catalogue has.
    """
    sensors = read_mission(path)
    if len(sensors) != 1:
        found = ", ".join(sensor.name for sensor in sensors)
        raise CatalogueError(f"'{path}' describes {len(sensors)} sensors ({found}); one file holds one sensor")
    if sensors[0].name.casefold() in _index():
        raise CatalogueError(
            f"'{path}' describes '{sensors[0].name}', a name of the catalogue's own sensor "
            f"'{_index()[sensors[0].name.casefold()]}'; give yours another name"
        )
    return sensors[0]


def resolve_sensor(name_or_path: str | Path) -> Sensor:
    """Get a sensor by its name in the catalogue or from a YAML file: a name that ends in `.yaml` or `.yml`.

    Raises:
        CatalogueError: see `get_sensor` and `load_sensor_file`.
    """
    if Path(name_or_path).suffix in {".yaml", ".yml"}:
        return load_sensor_file(Path(name_or_path))
    return get_sensor(str(name_or_path))


@functools.cache
def _sensors() -> dict[str, Sensor]:
    found: dict[str, Sensor] = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        for sensor in read_mission(path):
            if sensor.name in found:
                raise CatalogueError(f"{path.name}: sensor '{sensor.name}' stands in another table already")
            found[sensor.name] = sensor
    return found


@functools.cache
def _index() -> dict[str, str]:
    """Map every name and alias, case folded, to the name of its sensor."""
    index: dict[str, str] = {}
    for sensor in _sensors().values():
        for word in {sensor.name.casefold(), *(alias.casefold() for alias in sensor.aliases)}:
            if index.setdefault(word, sensor.name) != sensor.name:
                raise CatalogueError(f"'{word}' names both sensor '{index[word]}' and sensor '{sensor.name}'")
    return index


def _spelt() -> list[str]:
    return [word for sensor in _sensors().values() for word in (sensor.name, *sensor.aliases)]
