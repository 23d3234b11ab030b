"""A sensor file whose encodings are no mapping was a traceback."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from anyband.errors import CatalogueError
from anyband.sensors.catalogue import get_sensor


@pytest.mark.parametrize("encodings", [["dn"], "dn", 0.01])
def test_encodings_that_are_no_mapping_are_refused(encodings: Any, tmp_path: Path) -> None:
    bands = [{"name": "R", "low_nm": 600, "high_nm": 700}]
    own = {"title": "Own", "unit": "reflectance", "gsd_m": 3, "encodings": encodings, "bands": bands}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"mission": "Own", "source": "at home", "sensors": {"own": own}}))
    with pytest.raises(CatalogueError, match=r"own: encodings: expected a mapping of keys to values, found"):
        get_sensor(path)
