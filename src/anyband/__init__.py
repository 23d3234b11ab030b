"""One transformer encoder for every Earth-observation sensor."""

__version__ = "0.1.0"
__all__ = ["__version__"]
