"""Published data sets that TorchGeo lacks or lays out otherwise, read from their own folders."""

from anyband.data.supervised.records import DataSpec, TaskData

__all__ = ["list_published", "open_published"]

_MAPS = ("sickle", "hls-burn-scars", "dfc2020")


def list_published() -> tuple[str, ...]:
    """List the names of the data sets, in alphabetic order."""
    return tuple(sorted(_MAPS))


def open_published(spec: DataSpec, *, seed: int) -> TaskData:
    """Open a published data set from its folder.

    Args:
        spec: `source` is its name, `root` its folder.
        seed: of what is drawn.

    Raises:
        ManifestError: the folder is not as it is published.
    """
    from anyband.data.supervised.published_maps import open_map_set

    return open_map_set(spec, seed=seed)
