"""Checks array shapes at every public boundary while the tests run, and finds the real images."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("anyband", "beartype.beartype").__enter__()

_HERE = Path(__file__).resolve()


def _real_data_folder() -> Path | None:
    named = os.environ.get("ANYBAND_REAL_DATA")
    folder = Path(named) if named else _HERE.parents[2] / "shared" / "realdata"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images; see docs/real_data.md. Tests that ask for it carry the marker `real`."""
    folder = _real_data_folder()
    if folder is None:
        pytest.skip("no real images: set ANYBAND_REAL_DATA or put them at ../shared/realdata")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of recorded vectors."""
    return _HERE.parent / "golden"
