"""The configuration of a run: a typed tree, read from YAML and dotted overrides, refused as a whole if wrong.

Every key is either a *result* key, which decides what a run contains and is pinned by its plan, or an
*operation* key, which decides how the run is done and may differ at every resume.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError
from pipeline.yaml_text import read_yaml

_RESULT: dict[str, Any] = {"pinned": True}
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class PlanConfig(_Section):
    """How the input is cut into chunks."""

    chunk_rows: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field("auto", json_schema_extra=_RESULT)
    """Rows of a chunk, the unit of work, retry and commit; at most 4,096; auto = rows / (8 × replicas) in 16 … 256."""
    versions: bool = True
    """Note size and time of every local file, so that a later run with --base knows which have changed."""


class ManifestConfig(_Section):
    """What is read of a manifest."""

    keep: tuple[str, ...] = Field((), json_schema_extra=_RESULT)
    """Manifest columns that are carried into the tag table."""
    image_bytes: bool = Field(True, json_schema_extra=_RESULT)
    """Parquet columns bytes, image_bytes and {bytes, path} are the images, even beside a column of uris."""


class FetchConfig(_Section):
    """How image bytes are fetched."""

    concurrency: int = Field(32, ge=1, le=1024)
    """Fetches in flight for each decoding process."""
    concurrency_per_host: int = Field(8, ge=1, le=1024)
    """Of these, at most so many from one http(s) host."""
    connect_timeout_s: float = Field(10.0, gt=0)
    """To find a host's address, and to connect to it."""
    read_timeout_s: float = Field(30.0, gt=0)
    """Without a byte for so long, an attempt is given up."""
    total_timeout_s: float = Field(120.0, gt=0)
    """For one attempt from its first to its last byte, local files included."""
    retries: int = Field(3, ge=0, le=20)
    """Further attempts after a failure that may pass (docs/reference/errors.md)."""
    backoff_s: float = Field(0.5, ge=0)
    """Before the first retry; doubled for each further one, and shortened at random by up to half."""
    max_backoff_s: float = Field(60.0, ge=0)
    """Longest wait before a retry; a server that asks for a longer one (Retry-After) is not asked again."""
    max_image_bytes: int = Field(100_000_000, ge=1, json_schema_extra=_RESULT)
    """Larger images are rejected as too_large without being read."""
    max_redirects: int = Field(5, ge=0, le=50)
    """Redirects that are followed for one image."""
    user_agent: str = Field("ramfleet", min_length=1, pattern=r"^[\x20-\x7e]+$")
    """Sent to http(s) servers; robots rules for this name apply."""
    robots: bool = True
    """Images whose X-Robots-Tag says noai, noimageai, noindex or noimageindex are rejected."""
    proxy: str | None = Field(None, pattern=r"^http://")
    """HTTP proxy for http(s) images; it then looks up their addresses, so only it can block private ones."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts (name, name:port or address) that images may come from although their addresses are private."""
    allow_roots: Literal["auto"] | tuple[str, ...] = "auto"
    """Folders that local images may lie in, links resolved; auto = a local manifest's own folder."""


class StorageConfig(_Section):
    """How buckets are reached; what is not set here comes from the environment (AWS_*, GOOGLE_*, AZURE_*)."""

    anonymous: bool = False
    """Requests are not signed: public buckets without credentials."""
    requester_pays: bool = False
    """S3: the account of the credentials pays for requests and traffic."""
    profile: str | None = None
    """S3: profile of ~/.aws/config and ~/.aws/credentials; none = AWS_PROFILE."""
    endpoint: str | None = Field(None, pattern=r"^https?://")
    """S3: address of another store than Amazon's; none = AWS_ENDPOINT_URL."""
    region: str | None = None
    """S3: none = AWS_REGION, or the profile's."""


class DecodeConfig(_Section):
    """How image bytes become pixels."""

    mode: Literal["exact", "fast", "draft"] = Field("fast", json_schema_extra=_RESULT)
    """exact: plain Pillow, bit-equal to the reference; fast: within one grey level of it; draft: DCT scaling."""
    max_pixels: int = Field(178_956_970, ge=1, json_schema_extra=_RESULT)
    """Images of more pixels are rejected as too_many_pixels before they are decoded."""


class ModelOptions(_Section):
    """Which model tags, and how."""

    bundle: str | None = None
    """Folder of the bundle; none = the demo bundle. Pinned by its content, not by its path."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", json_schema_extra=_RESULT)
    """Number type of weights and activations; auto is resolved once for all cards of a run."""
    microbatch: Literal["auto"] | Count = "auto"
    """Images that a replica runs through the model at once."""
    compile: bool = False
    """Replicas run what torch.compile makes of the model: nodes need a C++ compiler, and minutes at the first start."""
    force: bool = False
    """Plan with model.dtype or model.compile although logits are beyond the bound, as measured before the run."""


class OutputConfig(_Section):
    """What is stored of the scores."""

    score_floor: Literal["auto"] | Share = Field("auto", json_schema_extra=_RESULT)
    """Scores under it are not stored; auto = 0.05 under each tag's own threshold; a number is absolute."""
    top_k: int = Field(128, ge=0, json_schema_extra=_RESULT)
    """At most so many scores per image, the highest; tags over their threshold always stay; 0 = no cap."""
    captions: Literal["auto"] | bool = Field("auto", json_schema_extra=_RESULT)
    """Whether the model also writes a caption of every image; auto = where it can (tag2text)."""
    languages: Literal["both", "en", "zh"] = Field("both", json_schema_extra=_RESULT)
    """Lists of names that are filled: tags (en), tags_zh (zh) or both; the other is empty."""
    grounding_prompt: bool = Field(False, json_schema_extra=_RESULT)
    """A column of that name, "dog . cat .": the tags in English as text-prompted detectors take them."""
    joined: bool = Field(False, json_schema_extra=_RESULT)
    """Columns tags_joined and tags_zh_joined, "dog | cat"."""


class FleetConfig(_Section):
    """Where replicas of the model run."""

    use_cpu: Literal["auto"] | bool = "auto"
    """Replicas on CPUs; auto = only where the cluster has no GPU."""
    max_replicas: Count | None = None
    """No more replicas than this in the whole cluster."""
    stall_timeout_s: float = Field(600.0, gt=0)
    """Without any replica for so long, the run stops."""
    lease_timeout_s: float = Field(600.0, gt=0)
    """A replica that shows no progress for longer is taken to hang, and is replaced."""
    profiles: str | None = None
    """YAML file of card profiles, as `ramfleet calibrate` writes it; they win over those that come with the package."""
    replicas_per_gpu: dict[str, Count] = Field({})
    """Replicas on each GPU by card as Ray names it, {T4: 1}, instead of what its profile says."""
    mixed_dtype: bool = False
    """Every card computes in the number type that suits it; model.dtype has to be auto, and cards may decide unlike."""
    sample_every_s: float = Field(10.0, ge=0)
    """How often CPU, network, GPU, memory and power are written down; 0 = never."""
    request: dict[str, Count] = Field({})
    """GPUs by card, {T4: 4, A100: 2}, that an autoscaling cluster is asked for while the run lasts."""


class RunConfig(_Section):
    """When a run gives up, and what it may take for granted."""

    max_reject_share: float = Field(0.5, gt=0, le=1)
    """A larger share of fetch failures among at least 1,000 rows is taken for an outage: the run stops."""
    single_writer: bool = False
    """Allow a store that cannot refuse to overwrite: only one command may then ever work on the run at a time."""
    carry_by_uri: bool = False
    """With --base: images whose version is unknown count as unchanged if their uri is the same."""
    report: bool = True
    """Write report.html in the end; it reads a few of the pictures once more."""


class TelemetryConfig(_Section):
    """What is told to the outside while a run works."""

    otlp_endpoint: str | None = Field(None, pattern=r"^https?://")
    """OpenTelemetry collector, http://host:4318, that gets metrics and spans by OTLP over HTTP (docs/metrics.md)."""
    export_every_s: float = Field(10.0, ge=0.1)
    """How often it gets them, in seconds."""


def _one_or_many(value: Any) -> Any:
    many = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(many, list | tuple) or not all(isinstance(item, str) for item in many):
        raise ValueError("write the path of a file, or a list of them")
    return many


class Config(_Section):
    """All of it, one section for each module that owns it, and the keys that stand alone."""

    plan: PlanConfig = PlanConfig()
    manifest: ManifestConfig = ManifestConfig()
    fetch: FetchConfig = FetchConfig()
    storage: StorageConfig = StorageConfig()
    decode: DecodeConfig = DecodeConfig()
    model: ModelOptions = ModelOptions()
    output: OutputConfig = OutputConfig()
    fleet: FleetConfig = FleetConfig()
    run: RunConfig = RunConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    prices: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_many)] = ()
    """File of prices, or a list of them: SkyPilot's CSV, or YAML (docs/costs.md); they win over the package's table."""

    def pinned(self) -> dict[str, Any]:
        """The result keys and their values, `{"decode.mode": "fast", …}`, as JSON knows them."""
        values = self.model_dump(mode="json")
        return {
            f"{name}.{key}": values[name][key]
            for name, section in type(self).model_fields.items()
            for key, field in _fields(section.annotation).items()
            if field.json_schema_extra == _RESULT
        }


def load_config(
    file: str | Path | None = None,
    overrides: list[str] | tuple[str, ...] = (),
    bundle: str | None = None,
    under: dict[str, dict[str, Any]] | None = None,
) -> Config:
    """Configuration from a YAML file and overrides `a.b=value`, where the later ones win.

    bundle: the value of model.bundle, taken as it is and not as YAML. under: sections that both may override.

    Raises ConfigError that names every wrong key with its value and remedy, all at once.
    """
    tree: dict[str, Any] = _read_yaml(Path(file)) if file is not None else {}
    for override in overrides:
        _apply(tree, override)
    if bundle is not None:
        tree["model"] = {**tree.get("model", {}), "bundle": bundle}
    try:
        return Config.model_validate(_merged(under or {}, tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error))) from error


def _merged(under: dict[str, dict[str, Any]], tree: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {**under, **tree}
    for name, section in under.items():
        if isinstance(tree.get(name), dict):
            merged[name] = {**section, **tree[name]}
    return merged


def known_keys() -> list[str]:
    """Every key, dotted where it is in a section, in their order."""
    keys: list[str] = []
    for name, field in Config.model_fields.items():
        keys += [name] if name in _ALONE else [f"{name}.{key}" for key in _fields(field.annotation)]
    return keys


def _fields(section: Any) -> dict[str, Any]:
    """Of a section; none of a key that stands alone."""
    fields: dict[str, Any] = getattr(section, "model_fields", {})
    return fields


_ALONE = [name for name, field in Config.model_fields.items() if not _fields(field.annotation)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        found = type(tree).__name__
        raise ConfigError(f"--config {path}: holds a {found}; write sections, like 'decode: {{mode: exact}}'")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    is_alone = section in _ALONE and not dot
    if not (equals and section and (is_alone or (dot and name))):
        raise ConfigError(f"--set {override}: write section.key=value, like decode.mode=exact")
    try:
        value = read_yaml(text) if text.strip() else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error
    if is_alone:
        tree[section] = value
        return
    branch = tree.setdefault(section, {})
    if not isinstance(branch, dict):
        raise ConfigError(f"--set {override}: the configuration file has {section}: {branch!r}, which is no section")
    branch[name] = value


def _explain(error: ValidationError) -> list[str]:
    """One line for each fault; a union's several complaints about one key become one line."""
    lines: dict[str, str] = {}
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"][:2])
        if fault["type"] == "extra_forbidden":
            lines[key] = f"{key}: unknown key{_nearest(key)}"
        elif key in lines:
            lines[key] += f", or: {_lower(fault['msg'])}"
        else:
            lines[key] = f"{key}={fault['input']!r}: {_lower(fault['msg'])}"
    return list(lines.values())


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _nearest(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known_keys())}"
