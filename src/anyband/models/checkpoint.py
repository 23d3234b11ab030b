"""Checkpoints: layout of their tensors, header, and safetensors files from the disk or from the Hugging Face hub."""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from anyband.errors import CatalogueError, CheckpointError, counted, nearest_name
from anyband.files import (
    HUB_FILE,
    HUB_ID,
    check_weights_kind,
    chosen_weights,
    weights_file,
    whole_file,
    whole_number,
)
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.encodings import EncodingConfig, PositionKind
from anyband.models.published import (
    DECODER_NAMES,
    PROJECTION,
    are_computed,
    config_from_shapes,
    plain_weights,
    shard_files,
)
from anyband.models.vit import LARGEST_COUNT, DecoderConfig, Encoder, EncoderConfig
from anyband.sensors.ranges import RangeTable, range_table_from_dict, range_table_to_dict

__all__ = [
    "CHECKPOINT_VERSION",
    "Checkpoint",
    "build_encoder",
    "build_model",
    "checkpoint_hash",
    "checkpoint_name",
    "config_from_header",
    "expected_shapes",
    "from_published",
    "header_json",
    "header_of",
    "load_checkpoint",
    "locate",
    "read_weights",
    "save_checkpoint",
    "shape_problems",
    "state_of",
    "to_published",
    "write_weights",
]

# What the network stacks by range, and the layers that the published layout has instead.
_STACKS = {
    "encoder.projection": PROJECTION,
    "reconstruction": "decoder_preds.{}.{}",
    "levels": "decoder_levels.{}.{}",
}

# In what order errors name the weights: by these beginnings, then by number, the norms of a block first.
_ORDER = re.compile(
    "(cls_)|(pos_)|(norm)|(spectrum_)|(encodings)|(blocks)|(decoder_embed)|(mask_)|(decoder_pos_)|(decoder_norm)|"
    "(decoder_preds|decoder_levels)|(decoder_encodings)|(decoder_blocks)"
)


def expected_shapes(config: AutoencoderConfig, *, decoder: bool) -> dict[str, tuple[int, ...]]:
    """List every weight of a checkpoint with its shape; `CheckpointError` where no tensor can be so large. The shapes
    are those of a network without memory, with one block for all: a broken header costs nothing."""
    encoder = replace(config.encoder, depth=1)
    short = replace(config, encoder=encoder, decoder=replace(config.decoder, decoder_depth=1))
    try:
        network = Autoencoder(short, seed=None) if decoder else nn.ModuleDict({"encoder": Encoder(encoder, seed=None)})
    except (OverflowError, RuntimeError, TypeError) as problem:
        raise CheckpointError(
            f"the header of the checkpoint describes no network: embed_dim {encoder.embed_dim} with mlp_ratio "
            f"{encoder.mlp_ratio:g} and {encoder.img_size} pixels is too large for any tensor"
        ) from problem
    found: list[tuple[tuple[int, int, bool], str, tuple[int, ...]]] = []
    for name, tensor in to_published(network.state_dict()).items():
        beginning = _ORDER.match(name)
        assert beginning is not None
        first, block, rest = name.partition("blocks.0.")
        depth = config.decoder.decoder_depth if first else config.encoder.depth
        number = re.search(r"\.(\d+)\.", name)
        for index in range(depth) if block else [int(number[1]) if number else 0]:
            place = (beginning.lastindex or 0, index, not rest.startswith("norm"))
            found.append((place, f"{first}{block[:-2]}{index}.{rest}" if block else name, tuple(tensor.shape)))
    return {name: shape for _, name, shape in sorted(found, key=lambda one: one[0])}


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a network's state the names and shapes of the published layout; `from_published` is the inverse."""
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stack, _, kind = name.rpartition(".")
        if stack in _STACKS:
            rows = tensor.transpose(1, 2) if name == "encoder.projection.weight" else tensor
            entries = {_STACKS[stack].format(index, kind): row for index, row in enumerate(rows)}
        else:
            plain = name.removeprefix("encoder.").replace("decoder.mask_token", "mask_token")
            entries = {plain.replace("decoder.", "decoder_", 1): tensor}
        for key, value in entries.items():
            device = value.device if value.is_meta else "cpu"
            copied = value.detach().to(device, copy=True, memory_format=torch.contiguous_format)
            published[key] = copied
    return published


def from_published(state: Mapping[str, Tensor], num_ranges: int) -> dict[str, Tensor]:
    """Give published weights, decoder or not, the network's names and shapes; `to_published` is the inverse."""
    network: dict[str, Tensor] = {}
    for stack, layout in _STACKS.items():
        for kind in ("weight", "bias"):
            if layout.format(0, kind) in state:
                rows = [state[layout.format(index, kind)] for index in range(num_ranges)]
                network[f"{stack}.{kind}"] = torch.stack(rows)
    network["encoder.projection.weight"] = network["encoder.projection.weight"].transpose(1, 2)
    stacked = tuple(layout.partition("{}")[0] for layout in _STACKS.values())
    for name, tensor in state.items():
        if not name.startswith(stacked):
            inside = name.startswith(DECODER_NAMES)
            network[("decoder." if inside else "encoder.") + name.removeprefix("decoder_")] = tensor
    return network


CHECKPOINT_VERSION = 1


def header_of(config: AutoencoderConfig, *, decoder: bool) -> dict[str, str]:
    """Write an architecture as header entries; `config_from_header` reads them back exactly."""
    task = asdict(config)
    entries, decoder_entries = task.pop("encoder"), task.pop("decoder")
    entries["encodings"] = json.dumps(entries["encodings"])
    entries |= decoder_entries if decoder else {}
    header = {name: value if isinstance(value, str) else repr(value) for name, value in entries.items()}
    return header | {
        "format": "pt",
        "anyband_version": str(CHECKPOINT_VERSION),
        "pretraining": json.dumps(task),
    }


def config_from_header(metadata: Mapping[str, str], *, num_ranges: int, positions: PositionKind) -> AutoencoderConfig:
    """Read an architecture from header entries; `CheckpointError` where one is missing, wrong or of a newer version."""
    version = metadata.get("anyband_version", str(CHECKPOINT_VERSION))
    number = whole_number(version)
    if number is None or number > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"the checkpoint is of format version '{version}'; this anyband reads up to {CHECKPOINT_VERSION}: update it"
        )
    encoder, decoder = (
        {one.name: metadata[one.name] for one in fields(kind) if one.name in metadata}
        for kind in (EncoderConfig, DecoderConfig)
    )
    missing = [one.name for one in fields(DecoderConfig) if one.name not in decoder]
    if decoder and missing:
        raise CheckpointError(f"the header of the checkpoint has no '{missing[0]}', but other numbers of a decoder")
    encodings = header_json(metadata, "encodings") or {}
    task = header_json(metadata, "pretraining") or {}
    given = {"positions": positions, **encoder, "num_ranges": num_ranges, "encodings": encodings}
    try:
        config: AutoencoderConfig = TypeAdapter(AutoencoderConfig).validate_python(
            {**task, "encoder": given, "decoder": decoder}
        )
    except ValidationError as problem:
        raise CheckpointError(_header_problem(problem.errors(include_url=False)[0])) from problem
    return config


def _header_problem(error: Any) -> str:
    kind, place, found = error["type"], error["loc"], error["input"]
    name = place[-1] if place else ""
    if kind == "missing":
        return f"the header of the checkpoint has no '{name}'"
    if kind == "unexpected_keyword_argument":
        known = [one.name for one in fields(EncodingConfig if "encodings" in place else AutoencoderConfig)]
        return f"the header of the checkpoint describes no network: unknown key '{name}'{nearest_name(name, known)}"
    if isinstance(found, str) and place[0] in ("encoder", "decoder"):
        shares = ("mlp_ratio", "drop_path", "norm_eps")
        wanted = "no number of 0 or more" if name in shares else f"no number from 1 to {LARGEST_COUNT}"
        wanted = "not 'fixed' or 'trained'" if name == "positions" else wanted
        return f"'{name}' in the header of the checkpoint is '{found}', {wanted}"
    reason = error["ctx"]["error"] if kind == "value_error" else f"{'.'.join(map(str, place))}: {error['msg']}"
    return f"the header of the checkpoint describes no network: {reason}"


def header_json(metadata: Mapping[str, str], name: str, *, of_objects: bool = False) -> dict[str, Any] | None:
    """Read a JSON object, `of_objects` of JSON objects, from the header; None where it is absent."""
    if name not in metadata:
        return None
    try:
        found = json.loads(metadata[name])
    except (json.JSONDecodeError, RecursionError) as problem:
        raise CheckpointError(f"'{name}' in the header of the checkpoint is not JSON: {problem}") from problem
    if not isinstance(found, dict):
        raise CheckpointError(f"'{name}' in the header of the checkpoint is not a JSON object")
    wrong = next((key for key, value in found.items() if not isinstance(value, dict)), None)
    if of_objects and wrong is not None:
        raise CheckpointError(f"'{name}' in the header of the checkpoint: '{wrong}' is not a JSON object")
    return found


BY_RANGE = (*(f"{stack}." for stack in _STACKS), "encoder.encodings.source.", "decoder.encodings.source.")
"""How the names of what a network stacks by range begin."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's weights with what they were trained on."""

    config: AutoencoderConfig
    """Of the decoder too, which means nothing where there is none."""
    state: dict[str, Tensor]
    """In the published layout, float32, on the CPU."""
    ranges: RangeTable
    """In layer order."""
    normalisations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How each training sensor was harmonised, by sensor name."""
    sensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The training sensors as declared, by name."""
    recipe: dict[str, Any] | None = None
    step: int | None = None
    head: dict[str, Tensor] = field(default_factory=dict)
    """Of a published model that was fine-tuned or probed, by the names in its file (`weight`, `0.running_mean`, …)."""
    notes: tuple[str, ...] = ()
    """What was taken by default, or left out, of a published file."""

    @property
    def has_decoder(self) -> bool:
        """Whether the network can reconstruct."""
        return any(name.startswith(DECODER_NAMES) for name in self.state)


def state_of(model: Autoencoder) -> dict[str, Tensor]:
    """Copy a network's weights into the published layout, for `Checkpoint.state`."""
    return to_published(model.state_dict())


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all; `CheckpointError` for weights that do not fit or are not finite."""
    _check_state(checkpoint.state, checkpoint.config, decoder=checkpoint.has_decoder, where=str(path))
    header = header_of(checkpoint.config, decoder=checkpoint.has_decoder)
    header["ranges"] = json.dumps(range_table_to_dict(checkpoint.ranges))
    header["normalisations"] = json.dumps(checkpoint.normalisations)
    header["sensors"] = json.dumps(checkpoint.sensors)
    if checkpoint.recipe is not None:
        header["recipe"] = json.dumps(checkpoint.recipe)
    if checkpoint.step is not None:
        header["step"] = str(checkpoint.step)
    write_weights(path, checkpoint.state, header)


def load_checkpoint(path_or_hub_id: str | Path) -> Checkpoint:
    """Read a checkpoint of ours or a published one (see `locate`), strictly: no weight missing, none too many, all in
    shape. `CheckpointError`: no such file, a pickle, a truncated file, or weights that fit no network."""
    path = locate(path_or_hub_id)
    stored, header = read_weights(path)
    tensors, head, ranges, notes = plain_weights(stored, header, str(path))
    table = tensors.get("pos_embed")
    # Files do not say whether positions were trained; their values do.
    computed = table is None or table.ndim != 3 or table.shape[2] % 4 or are_computed(table)
    positions: PositionKind = "fixed" if computed else "trained"
    before, after = PROJECTION.format("|", "weight").split("|")
    num_ranges = sum(name.startswith(before) and name.endswith(after) for name in tensors)
    decoder = any(name.startswith(DECODER_NAMES) for name in tensors)
    if "embed_dim" in header:
        config = config_from_header(header, num_ranges=num_ranges, positions=positions)
    else:
        config = config_from_shapes(tensors, num_ranges=num_ranges, positions=positions)
    _check_state(tensors, config, decoder=decoder, where=str(path))
    declared = header_json(header, "ranges")
    try:
        ranges = ranges if declared is None else range_table_from_dict(declared)
    except CatalogueError as problem:
        raise CheckpointError(f"the ranges in the header of the checkpoint are wrong: {problem}") from problem
    if len(ranges.ranges) != num_ranges:
        raise CheckpointError(
            f"the checkpoint has weights for {num_ranges} ranges, its table '{ranges.name}' {len(ranges.ranges)}"
        )
    return Checkpoint(
        config=config,
        state=tensors,
        head=head,
        ranges=ranges,
        notes=notes,
        normalisations=header_json(header, "normalisations", of_objects=True) or {},
        sensors=header_json(header, "sensors", of_objects=True) or {},
        recipe=header_json(header, "recipe"),
        step=whole_number(header.get("step", "")),
    )


def build_model(checkpoint: Checkpoint) -> Autoencoder:
    """Make the whole network with the checkpoint's weights; `CheckpointError` where it has no decoder."""
    if not checkpoint.has_decoder:
        raise CheckpointError("the checkpoint has an encoder only; reconstruction needs one with its decoder")
    model = Autoencoder(checkpoint.config, seed=None).to_empty(device="cpu")
    model.load_state_dict(from_published(checkpoint.state, checkpoint.config.encoder.num_ranges), strict=True)
    return model


def build_encoder(
    checkpoint: Checkpoint, *, positions: PositionKind | None = None, drop_path: float | None = None
) -> Encoder:
    """Make the encoder with the checkpoint's weights; None: as there; `trained` positions start from there."""
    config = checkpoint.config.encoder
    config = replace(
        config,
        positions=config.positions if positions is None else positions,
        drop_path=config.drop_path if drop_path is None else drop_path,
    )
    of_encoder = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith(DECODER_NAMES)}
    state = from_published(of_encoder, config.num_ranges)
    encoder = Encoder(config, seed=None).to_empty(device="cpu")
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()}, strict=True)
    return encoder


def _check_state(state: Mapping[str, Tensor], config: AutoencoderConfig, *, decoder: bool, where: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = shape_problems(shapes, expected_shapes(config, decoder=decoder), unexpected="unexpected")
    if problems:
        raise CheckpointError(
            f"'{where}' does not fit its architecture (embed_dim {config.encoder.embed_dim}, depth "
            f"{config.encoder.depth}, {config.encoder.num_ranges} ranges): {'; '.join(problems)}; "
            "its header describes another network: get the file again from where it was made"
        )
    bad = [name for name, tensor in state.items() if not (tensor.is_floating_point() and tensor.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"'{where}' has weights that are no finite numbers, first '{bad[0]}'; use an earlier checkpoint of the run"
        )
    tables = ["decoder_pos_embed"] if "decoder_pos_embed" in state else []
    tables += ["pos_embed"] if config.encoder.positions == "fixed" else []
    wrong = [name for name in tables if not are_computed(state[name])]
    if wrong:
        raise CheckpointError(
            f"'{wrong[0]}' in '{where}' is not the computed sine and cosine positions, though they are declared fixed"
        )


def shape_problems(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, unexpected: str
) -> list[str]:
    """Count the weights that are missing, too many (named by `unexpected`) or of another shape, with some names."""
    other = [
        f"{name} {found[name]} and not {shape}" for name, shape in expected.items() if found.get(name, shape) != shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found],
        unexpected: [name for name in found if name not in expected],
        "of another shape": other,
    }
    return [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    ]


# chosen: seconds in which the hub lists a repository.
_PATIENCE_S = 20.0
# chosen: memory that a checksum takes.
_BLOCK_BYTES = 2**24
# Source: the safetensors format.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def locate(path_or_hub_id: str | Path) -> Path:
    """Find the file of weights: a path, a folder with `model.safetensors` or of a run, or a hub id `owner/name`,
    `owner/name/file.safetensors`, each `@revision`."""
    return weights_file(path_or_hub_id) or _downloaded(str(path_or_hub_id))


def _downloaded(hub_id: str) -> Path:
    try:
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as problem:
        raise CheckpointError(
            f"'{hub_id}' is no file here, and as a hub id it needs huggingface_hub: pip install 'anyband[hub]'"
        ) from problem
    try:
        return _from_hub(hub_id)
    except CheckpointError:
        raise
    except (HfHubHTTPError, OSError, ValueError) as problem:
        reason = str(problem).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"'{hub_id}' is no file here, and weights of that name could not be had from the hub: {reason}. "
            f"Check the name and the connection, or download the file and give its path."
        ) from problem


def _from_hub(hub_id: str) -> Path:
    """Download the file of weights that is named, or that `chosen_weights` chooses; of an index all its files too. What
    was downloaded before is there without a connection."""
    from huggingface_hub import hf_hub_download, model_info, snapshot_download

    named = HUB_ID.fullmatch(hub_id)
    assert named is not None
    repository, file, revision = named["repository"], named["file"], named["revision"]
    if file is None:
        try:
            found = model_info(repository, revision=revision, timeout=_PATIENCE_S).siblings
            files = [one.rfilename for one in found or ()]
        except Exception as problem:  # noqa: BLE001 - of several libraries, none of which names its own
            try:
                local = Path(snapshot_download(repository, revision=revision, local_files_only=True))
            except (OSError, ValueError):
                raise OSError(str(problem)) from problem
            files = [path.name for path in local.iterdir()]
        file = chosen_weights(files, name=repository.partition("/")[2])
        if file is None:
            known = sorted(one for one in files if one.endswith(".safetensors"))
            raise CheckpointError(
                f"repository '{repository}' has {counted(len(known), 'file')} of weights ({', '.join(known)}); "
                f"say which: '{repository}/{known[0] if known else HUB_FILE}'"
            )
    path = Path(hf_hub_download(repository, file, revision=revision))
    if path.suffix == ".json":
        for shard in dict.fromkeys(shard_files(path, are_there=False)):
            hf_hub_download(repository, str(Path(file).parent / shard.name), revision=revision)
    return path


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and header of a safetensors file; `CheckpointError` for a pickle or what is no whole one."""
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".json":
        return _read_shards(path)
    check_weights_kind(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        checksum = metadata.pop("checksum", None)
        is_damaged = checksum is not None and _checksum_of(path) not in (checksum, None)
    except SafetensorError as problem:
        raise CheckpointError(
            f"'{path}' is not a whole safetensors file ({path.stat().st_size:,} bytes; {problem}); "
            f"it may be truncated: copy or download it again"
        ) from problem
    except OSError as problem:
        raise CheckpointError(f"cannot read '{path}': {problem.strerror or problem}") from problem
    if is_damaged:
        raise CheckpointError(
            f"'{path}' is damaged: its contents are not those that were written (their checksum is another); copy it "
            "again from where it was made, or use an earlier one"
        )
    return tensors, metadata


def _read_shards(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    header: dict[str, str] = {}
    for path, names in shard_files(index).items():
        found, metadata = read_weights(path)
        if absent := [name for name in names if name not in found]:
            raise CheckpointError(f"'{path}' has no '{absent[0]}', which '{index.name}' says it has; get both again")
        tensors |= {name: found[name] for name in names}
        header |= metadata
    return tensors, header


def _checksum_of(path: Path) -> str | None:
    """Compute the checksum that `write_weights` puts into the header, of the header without it and all tensors; None
    where another program, which keeps the header but no order in it, wrote what it had changed."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        if list(header["__metadata__"]) != sorted(header["__metadata__"]):
            return None
        header["__metadata__"].pop("checksum")
        checksum = zlib.crc32(_header_text(header))
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _header_text(header: Mapping[str, object]) -> bytes:
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all, with a checksum that reading verifies; equal contents give equal
    bytes, unlike by the library's writer. Source: https://github.com/huggingface/safetensors#format."""
    # Wide numbers first, so that every tensor starts at a multiple of its own item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name in names:
        end = start + tensors[name].numel() * tensors[name].element_size()
        shape, kind = list(tensors[name].shape), _DTYPES[tensors[name].dtype]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    # Of the CPU these are no copies.
    contents = [tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data for name in names]
    checksum = zlib.crc32(_header_text(header))
    for content in contents:
        checksum = zlib.crc32(content, checksum)
    header["__metadata__"] = dict(sorted({**metadata, "checksum": f"{checksum:08x}"}.items()))
    text = _header_text(header)
    text += b" " * (-len(text) % 8)
    with whole_file(path) as beside, beside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(contents)


def checkpoint_hash(path: Path) -> str:
    """Compute the SHA-256 of a checkpoint file, in hexadecimal; of one in several files, of their hashes."""
    if path.suffix == ".json":
        return hashlib.sha256("".join(map(checkpoint_hash, shard_files(path))).encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise CheckpointError(f"cannot read '{path}': {problem.strerror or problem}") from problem


def checkpoint_name(path_or_hub_id: str | Path) -> str:
    """Name a checkpoint by what was asked for and the first quarter of its hash."""
    return f"{Path(path_or_hub_id).name} sha256:{checkpoint_hash(locate(path_or_hub_id))[:16]}"
