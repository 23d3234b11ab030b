"""What `import anyband` offers, whatever else was imported."""

import importlib
import pkgutil

import anyband


def test_no_module_takes_the_place_of_a_public_name() -> None:
    for module in pkgutil.walk_packages(anyband.__path__, "anyband."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert [name for name in anyband.__all__ if isinstance(getattr(anyband, name), type(anyband))] == []
