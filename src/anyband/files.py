"""Files that appear whole or not at all, locks, which file a path means and what may be opened, and strict YAML 1.2."""

import contextlib
import errno
import fcntl
import glob
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from anyband.errors import AnybandError, CheckpointError, OutputError, RasterError, check_text

__all__ = [
    "HUB_FILE",
    "HUB_ID",
    "RUN_FILE",
    "OwnLoader",
    "check_beside",
    "check_regular",
    "check_target",
    "check_vrt",
    "check_weights_kind",
    "chosen_weights",
    "file_identity",
    "found_paths",
    "held",
    "names_others",
    "parse_yaml",
    "read_yaml",
    "sync",
    "weights_file",
    "whole_directory",
    "whole_file",
    "whole_number",
    "yaml_text",
]


def file_identity(path: Path | str) -> tuple[int, int] | str:
    """Tell which file or folder a path means, whatever way leads to it: links and `..` count for nothing."""
    try:
        status = os.stat(path)  # noqa: PTH116 (once for each file of an archive)
    except (OSError, ValueError):
        return os.path.abspath(path)  # noqa: PTH100 (same)
    return status.st_dev, status.st_ino


def found_paths(pattern: str) -> list[str]:
    """List what a pattern means. A name that exists is that file, and a folder of that name that folder, before it is a
    pattern: `img[12].tif`, or `set [1]/*.tif`."""
    if os.path.lexists(pattern):
        return [pattern]
    ends = (at for at in range(len(pattern) - 1, 0, -1) if pattern[at] == os.sep)
    folder = next((pattern[:at] for at in ends if os.path.lexists(pattern[:at])), "")
    return glob.glob(glob.escape(folder) + pattern[len(folder) :], recursive=True)  # noqa: PTH207 - absolute too


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk, so that a rename that follows can't outrun it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_target(path: Path, *, is_folder: bool = False) -> None:
    """See that a file can become `path`, or that files can be written in the folder `path`, which may be made; leave
    nothing there. `OutputError` where not; a file that is read-only is left alone."""
    folder = path if is_folder else path.parent
    try:
        standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        tempfile.TemporaryFile(dir=standing).close()
    except OSError as problem:
        raise _output_error(folder, problem) from problem
    if not is_folder and path.is_dir():
        raise OutputError(f"'{path}' is a folder; name a file")
    if not is_folder and path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"'{path}' exists and is read-only; make it writable, or name another output")


# What a lock that we made holds, so that a file of that name which is not ours is never taken for one.
_LOCK_FILE, _LOCK_MARK = "lock", b"held by anyband\n"
_UNFINISHED = "[0-9a-f]" * 8


@contextlib.contextmanager
def held(lock: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock that the system takes back when the process ends, however it ends; its file, and its folder where
    that was made for it and is empty, go again. Another holder is waited for, or an `OutputError`."""
    made = [folder for folder in lock.parents if not folder.exists()]
    try:
        handle = _locked(lock, wait=wait)
    except OSError as problem:
        raise _output_error(lock.parent, problem) from problem
    if handle is None:
        raise OutputError(f"another run is writing to '{lock.parent}'; wait for it, or name another output")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # Others that wait see that the file is gone, and make it anew.
            if _is_open_as(handle, lock):
                lock.unlink()
        os.close(handle)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _locked(lock: Path, *, wait: bool) -> int | None:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # One who let go has just removed the folder.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            pass  # Some network disks have no locks; then one process at a time is on the user.
        if _is_open_as(handle, lock):
            if not os.fstat(handle).st_size:
                os.write(handle, _LOCK_MARK)
            return handle
        os.close(handle)


def _is_open_as(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder: what has our mark, and nobody holds any more."""
    for room in folder.glob(f".{_UNFINISHED}.partial.*"):
        with contextlib.suppress(OSError), (room / _LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.read(len(_LOCK_MARK) + 1) == _LOCK_MARK:
                shutil.rmtree(room)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well the file there becomes `path`, else it is removed. An existing
    `path` stays until the rename. The name stays, because writers choose a format by its ending. It is in a folder of
    its own beside `path`, which is held: what a killed process leaves goes with the next file."""
    room = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    beside = room / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with held(room / _LOCK_FILE):
            try:
                yield beside
                for file in (*beside.rglob("*"), beside):
                    sync(file)
                beside.replace(path)
                sync(path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
                raise
    except OutputError as problem:
        # An unfinished file is named as the finished one would be, and its own folder as that of the finished one.
        text = str(problem).replace(str(beside), str(path)).replace(str(room), str(path.parent))
        raise OutputError(text) from problem
    except OSError as problem:
        if isinstance(problem, AnybandError) or problem.errno is None:
            raise
        raise _output_error(path, problem) from problem


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes `path`, which must not exist, else it is removed."""
    if path.exists():
        raise OutputError(f"'{path}' exists already; remove it or name another output")
    with whole_file(path) as beside:
        beside.mkdir()
        yield beside


def _output_error(path: Path, problem: OSError) -> OutputError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"no room on the disk to write '{path}'; free some or name another output")
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"'{path}' is not writable ({problem.strerror}); name another output")
    return OutputError(f"cannot write '{path}': {problem.strerror or problem}")


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_regular(path: Path, *, error: type[AnybandError]) -> None:
    """Refuse, before it is opened, what has no end, such as a pipe; what is missing says who opens it."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return
    if kind != stat.S_IFREG:
        raise error(f"'{path}' is {_KINDS.get(kind, 'a socket')}; name a file")


# First bytes of the formats that may be sources of a VRT: TIFF and BigTIFF of both orders, PNG, JPEG, JP2, JPEG 2000.
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff", b"\0\0\0\x0cjP  ", b"\xffO\xffQ")
# What GDAL itself opens beside an image, by any driver; and what it reads there as text.
_OPENED_BESIDE = (".msk", ".ovr")
_READ_BESIDE = (".aux.xml", ".aux", ".hdr", ".HDR", ".prj", ".tfw", ".wld", ".pgw", ".jgw", ".j2w")
# Elements of a VRT that is a plain mosaic or selection of bands.
_VRT_ELEMENTS = re.compile(
    "VRTDataset|VRTRasterBand|SRS|GeoTransform|Metadata|MDI|Description|NoDataValue|ColorInterp|UnitType|Offset|Scale|"
    "HideNoDataValue|ColorTable|Entry|CategoryNames|Category|BlockXSize|BlockYSize|SimpleSource|ComplexSource|NODATA|"
    "SourceFilename|SourceBand|SourceProperties|SrcRect|DstRect|UseMaskBand|ScaleOffset|ScaleRatio|MaskBand|Histograms|"
    "HistItem|HistMin|HistMax|BucketCount|IncludeOutOfRange|Approximate|HistCounts|OverviewList"
)
# chosen: more text than a mosaic of all scenes of an archive takes.
_MAX_VRT_BYTES = 2**26


def check_beside(path: Path) -> None:
    """See that what GDAL would open beside an image is a file of pixels, and names no other; else `RasterError`."""
    for ending in (*_OPENED_BESIDE, *_READ_BESIDE):
        for file in {Path(f"{path}{ending}"), path.with_suffix(ending)} - {path}:
            if not os.path.lexists(file):
                continue
            check_regular(file, error=RasterError)
            if ending in _OPENED_BESIDE and str(file) == f"{path}{ending}":
                _check_pixels(file)
            elif ending == ".aux.xml" and b"OVERVIEW_FILE" in file.read_bytes():
                raise RasterError(names_others(file))


def _check_pixels(path: Path) -> None:
    check_regular(path, error=RasterError)
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith(_MAGIC):
        raise RasterError(f"'{path}' is no TIFF, PNG, JPEG or JP2, so it is not opened; remove it, or write it as TIFF")
    check_beside(path)


def names_others(path: Path) -> str:
    """Say that a file names an overview elsewhere."""
    return f"'{path}' names an overview in another file, which is not followed; remove that, or write it into the image"


def check_vrt(path: Path, inside: tuple[Path, ...] = ()) -> None:
    """See that a VRT is a plain mosaic of rasters below its own folder, whatever stands in them; else `RasterError`."""
    own = path.resolve()
    if own in inside:
        raise RasterError(f"'{path}' is a source of itself")
    if path.stat().st_size > _MAX_VRT_BYTES:
        raise RasterError(f"'{path}' has more than {_MAX_VRT_BYTES >> 20} MiB of text; cut it into several")
    for element in _vrt_elements(path):
        if element.tag == "SourceFilename":
            source = _vrt_source(path, element)
            nested = source.suffix.casefold() == ".vrt"
            check_vrt(source, (*inside, own)) if nested else _check_pixels(source)
    check_beside(path)


def _vrt_elements(path: Path) -> Iterator[ElementTree.Element]:
    text = path.read_bytes()
    try:
        # A declaration of a type could declare entities that grow, or stand for files.
        root = None if b"<!" in text else ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as problem:
        raise RasterError(f"'{path}' is no VRT: {problem}; get it again or leave it out") from problem
    found = [] if root is None else list(root.iter())
    classes = {element.get("subClass", "VRTSourcedRasterBand") for element in found}
    tags = {element.tag for element in found if not _VRT_ELEMENTS.fullmatch(element.tag)}
    unknown = sorted(tags | classes - {"VRTSourcedRasterBand"})
    if root is None or root.tag != "VRTDataset" or unknown:
        raise RasterError(
            f"'{path}' is no plain VRT (it has {', '.join(unknown[:3]) or 'declarations'}): mosaics and selections of "
            "bands are read; write it as GeoTIFF with `gdal_translate`"
        )
    return iter(found)


def _vrt_source(path: Path, element: ElementTree.Element) -> Path:
    """Find a source of a VRT; `RasterError` where it is not below the folder of the VRT."""
    name, folder = element.text or "", path.parent if element.get("relativeToVRT") == "1" else Path()
    source = folder / name
    is_path = name and ":" not in name and "<" not in name and not str(source).startswith("/vsi")
    if not (is_path and source.resolve().is_relative_to(path.parent.resolve()) and "\0" not in name):
        raise RasterError(
            f"'{path}' has the source '{name}', which is no file below its own folder; put all sources there, or write "
            "it as GeoTIFF with `gdal_translate`"
        )
    return source


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, and reads words as YAML 1.2 does: `NO`, `12:30:45` and a date are texts.
    Numbers whose digits would be lost (`007`, `0o17`) are texts too."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                check_text(value, error=ValueError)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as problem:
            found = repr(node.value[:_SHOWN]) if isinstance(node.value, str) else "this"
            reason = problem if isinstance(problem, ValueError) else f"no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(
                problem=f"{found} can't be read: {reason}", problem_mark=node.start_mark
            ) from problem
        return value


class _TextLoader(_StrictLoader):
    """The same, but every word is the text that stands there, but `null` and nothing, which are None; for tables."""


# For files of the package itself, where a test looks for duplicate keys: libyaml reads some ten times as quickly; its
# sentences about errors are other ones, and it has no limit of depth.
OwnLoader: Any = type("OwnLoader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})


def _construct_mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise yaml.MarkedYAMLError(
                problem=f"{key!r} can't be a key; a key is a text or a number",
                problem_mark=key_node.start_mark,
            )
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key '{key}' stands twice, on lines {seen[key]} and {line}",
                problem_mark=key_node.start_mark,
            )
        seen[key] = line
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


# Source: YAML 1.2.2, section 10.3.2 (core schema), without numbers in other bases or with leading zeros.
_NONE = (("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]), ("merge", "<<", ["<"]))
_NUMBERS = (
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
_WORDS = (*_NONE, ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")), *_NUMBERS)


class _Dumper(yaml.SafeDumper):
    """Quotes what any reader, of YAML 1.1 or 1.2, would take for something else than a text."""


def _read_words(user: Any, words: Iterable[tuple[str, str, list[str]]]) -> None:
    for tag, written, first in words:
        user.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{written})$"), first)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
for _loader, _words in ((_StrictLoader, _WORDS), (_TextLoader, _NONE), (OwnLoader, _WORDS)):
    _loader.yaml_implicit_resolvers = {}
    _read_words(_loader, _words)
_read_words(_Dumper, _NUMBERS)


# chosen: more values than a list of all images of an archive has.
_MOST_VALUES = 10_000_000


def _check_aliases(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Count the values of a node as they are with all aliases written out, and refuse those without end."""
    if id(node) not in sizes:
        sizes[id(node)] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = 1 + sum(_check_aliases(one, sizes) for one in inner)
    size = sizes[id(node)]
    if size is None or size > _MOST_VALUES:
        found = "holds itself" if size is None else f"stands for more than {_MOST_VALUES:,} values"
        raise yaml.MarkedYAMLError(problem=f"by its aliases this {found}", problem_mark=node.start_mark)
    return size


# chosen: so much of a text that can't be read is shown.
_SHOWN = 40


def yaml_text(value: Any) -> str:
    """Write plain values as YAML, in the order of their keys."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str, *, name: str, error: type[AnybandError], as_texts: bool = False) -> Any:
    """Parse YAML text; duplicate keys and broken syntax raise `error` with the line, and `name` of the document. With
    `as_texts` every word is the text that stands there (`1e3`, `true`); None is still None."""
    try:
        loader = (_TextLoader if as_texts else _StrictLoader)(text)
        node = loader.get_single_node()
        if "*" in text and node is not None:
            _check_aliases(node, {})
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as problem:
        raise error(f"'{name}' is not valid YAML: {problem}") from problem
    except RecursionError as problem:
        raise error(f"'{name}' is nested too deeply to be read") from problem


# chosen: nothing that is counted has more; Python refuses to read thousands of digits.
_MOST_DIGITS = 18


def whole_number(text: str) -> int | None:
    """Read a text of the digits 0 to 9 as a number; None where it is any other, or too long for a count."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None


def read_yaml(path: Path, *, error: type[AnybandError], as_texts: bool = False) -> Any:
    """Read a YAML file; see `parse_yaml`. A missing or unreadable file raises `error` too."""
    try:
        check_regular(path, error=error)
        text = path.read_text(encoding="utf-8-sig")
    except AnybandError:
        raise
    except OSError as problem:
        raise error(f"cannot read '{path}': {problem.strerror or problem}") from problem
    except ValueError as problem:
        raise error(f"'{path}' is not a text in UTF-8, so it can't be YAML: {problem}") from problem
    return parse_yaml(text, name=str(path), error=error, as_texts=as_texts)


HUB_FILE = "model.safetensors"
"""What a checkpoint is called in a repository of the Hugging Face hub."""
RUN_FILE = "encoder.safetensors"
"""What a finished run calls its checkpoint."""
HUB_ID = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:/(?P<file>[\w./-]+\.safetensors(?:\.index\.json)?))?"
    r"(?:@(?P<revision>[\w./-]+))?"
)
"""`owner/name`, `owner/name/file.safetensors`, each `@revision`."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
# First bytes of what torch.save and pickle write: a zip archive, or a pickle of protocol 2 and later.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
_FILE_SUFFIXES = (".safetensors", *_PICKLE_SUFFIXES, ".yaml", ".yml", ".json", ".txt", ".h5", ".onnx", ".npz", ".zip")
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
_LFS_POINTER = b"version https://git-lfs"


def weights_file(path_or_hub_id: str | Path) -> Path | None:
    """Find the file of a checkpoint: a path, a folder with `model.safetensors`, or a run's; None: a hub id
    (`HUB_ID`), which is nothing like a file here. `CheckpointError` where it is neither."""
    path, name = Path(path_or_hub_id), str(path_or_hub_id)
    if path.is_dir():
        steps = sorted(path.glob(f"checkpoints/step_*/{HUB_FILE}"))
        files = [one.name for one in path.iterdir()] + [str(one.relative_to(path)) for one in steps[-1:]]
        chosen = chosen_weights(files, name=path.absolute().name)
        if chosen is not None:
            return path / chosen
        raise CheckpointError(
            f"folder '{path}' has no '{HUB_FILE}' and {_weights_in(path)}; name the checkpoint file itself"
        )
    if path.exists():
        check_regular(path, error=CheckpointError)
        return path
    folder, found = path.parent, HUB_ID.fullmatch(name)
    in_folder = folder != Path() and folder.is_dir()
    is_file = found is None or (found["file"] is None and path.suffix.casefold() in _FILE_SUFFIXES)
    if is_file or in_folder or any(one.is_dir() for one in path.parents[:-1]):
        there = f" (folder '{folder}' has {_weights_in(folder)})" if in_folder else ""
        raise CheckpointError(
            f"there is no checkpoint '{name}'{there}; give a safetensors file or a hub id such as "
            "'gsumbul/SMARTIES-v1-ViT-B'"
        )
    return None


def chosen_weights(files: Sequence[str], *, name: str) -> str | None:
    """Choose the file of a checkpoint among those of a folder or repository of some name; None: nothing tells which.
    The one that is named as the repository (`smarties-v1-vitb` of `SMARTIES-v1-ViT-B`) has encoder and decoder and goes
    first; then that of the hub, whole or by its index; a finished run's; the only one; the newest step of a run."""
    weights = [one for one in files if one.endswith(".safetensors") and "/" not in one and not _SHARD.search(one)]
    bare = re.sub(r"\W|_", "", name).casefold()
    named = [one for one in weights if re.sub(r"\W|_", "", one.removesuffix(".safetensors")).casefold() == bare]
    known = [one for one in (HUB_FILE, f"{HUB_FILE}.index.json", RUN_FILE) if one in files]
    steps = [one for one in files if "/" in one]
    return next(iter([*named, *known, *(weights if len(weights) == 1 else []), *(steps if not weights else [])]), None)


def _weights_in(folder: Path) -> str:
    return ", ".join(sorted(one.name for one in folder.glob("*.safetensors"))[:5]) or "no safetensors file"


def check_weights_kind(path: Path) -> None:
    """See by its first bytes that a file is none of what people have instead of weights; `CheckpointError` names it."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as problem:
        raise CheckpointError(f"cannot read '{path}': {problem.strerror or problem}") from problem
    if start.startswith(_PICKLE_STARTS) or path.suffix in _PICKLE_SUFFIXES:
        raise CheckpointError(
            f"'{path}' is a pickle or a PyTorch archive, not safetensors; reading one can run any code in it. "
            f"Where you trust its source, convert it once: torch.load('{path.name}', weights_only=True), then "
            f"safetensors.torch.save_file of its dict of weights (often under 'model'), and give that file"
        )
    if start.startswith(_LFS_POINTER):
        raise CheckpointError(f"'{path}' is a pointer of Git LFS, not the weights; get them with `git lfs pull`")
    if _WEB_PAGE.match(start):
        raise CheckpointError(f"'{path}' is a web page, not weights: its download failed; get the file again")
