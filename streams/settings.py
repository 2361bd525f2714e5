"""Settings of worker and CLI: environment variables `WEIR_*`, or a TOML file of the same names in lower case."""

import difflib
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from inference.cost import Prices
from inference.openai import EngineSettings
from sinks import retention
from sinks.clickhouse import StoreSettings
from streams import secrets
from streams.errors import WorkerMisconfigured

_PREFIX = "WEIR_"
_FILE_VARIABLE = "WEIR_SETTINGS"

Server = Literal["kafka", "engine", "clickhouse"]
_NEEDED = frozenset(f"{server}_url" for server in get_args(Server))


def _address(schemes: tuple[str, ...]) -> AfterValidator:
    def check(value: str) -> str:
        if "@" in value:  # anywhere: a password may hold what ends a host
            raise ValueError("a URL must not hold a user or a password; use the settings made for them")
        for url in map(urlsplit, _each(value)) if value else ():
            path = url.path if url.scheme == "kafka" else ""  # of which a broker has none
            if url.scheme not in schemes or not url.hostname or path or not _has_port(url):
                raise ValueError(f"must look like {schemes[0]}://host:port")
        return value

    return AfterValidator(check)


def _events_address(value: str) -> str:
    if "@" in value:
        raise ValueError("a URL must not hold a user or a password; use the settings made for them")
    url = urlsplit(value)
    to_server = url.scheme in ("http", "https") and url.hostname and _has_port(url)
    to_file = url.scheme == "file" and not url.netloc and len(url.path) > 1
    if value and not ((to_server or to_file) and not url.query and not url.fragment):
        raise ValueError("must look like http://host:port or file:///folder/file")
    return value


def _retention(value: str) -> str:
    retention.parse(value)
    return value


def _has_port(url: SplitResult) -> bool:
    """Whether the port is one, or left out. urlsplit's own error would quote it."""
    try:
        return url.port is None or url.port > 0
    except ValueError:
        return False


def _each(value: str) -> list[str]:
    scheme, _, rest = value.partition("://")
    return [f"{scheme}://{server}" for server in rest.split(",")]


class Settings(BaseSettings):
    """What a worker needs to know of its surroundings. Secrets are never printed."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    kafka_url: Annotated[str, _address(("kafka",))] = Field(default="", description="kafka://host:port[,host:port]")
    kafka_group: str = Field(default="weir", min_length=1, description="consumer group of the workers")
    kafka_session_seconds: float = Field(
        default=10, ge=6, le=300, description="silence after which Kafka gives a worker up"
    )
    kafka_tls: bool = Field(default=False, description="use TLS")
    kafka_ca_file: str = Field(default="", description="certificate authority; default: the system's")
    kafka_cert_file: str = Field(default="", description="own certificate, for mutual TLS")
    kafka_key_file: str = Field(default="", description="key of the own certificate")
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="", description="how to log in; empty: not at all"
    )
    kafka_user: str = Field(default="", description="SASL user")
    kafka_password: SecretStr = Field(default=SecretStr(""), description="SASL password")

    engine_url: Annotated[str, _address(("http", "https"))] = Field(
        default="", description="root of the OpenAI-compatible server, http://host:8000"
    )
    engine_api_key: SecretStr = Field(default=SecretStr(""), description="sent as a bearer token")
    engine_ca_file: str = Field(default="", description="certificate authority for https; default: the system's")
    engine_model: str = Field(default="", description="model to use; default: the first that the server names")
    engine_dialect: Literal["", "vllm", "llamacpp", "openai", "votes"] = Field(
        default="", description="default: found out"
    )
    engine_prompts_in_flight: int = Field(
        default=1024, ge=1, le=16_384, description="prompts at once, at most; as many as the engine can take"
    )
    engine_prompts_per_request: int = Field(default=0, ge=0, le=256, description="0: what the dialect accounts for")
    engine_linger_seconds: float = Field(
        default=0.002, ge=0, le=1, description="how long a prompt may wait for others to share a request"
    )
    engine_attempts: int = Field(
        default=5, ge=1, le=100, description="failures on one prompt, while others succeed, before its row is given up"
    )
    engine_timeout_seconds: float = Field(default=120, gt=0, description="longest that a request may take")
    engine_context_tokens: int = Field(default=0, ge=0, description="0: what the server says")
    price_input_usd: float = Field(default=0, ge=0, description="US dollars a million input tokens")
    price_cached_usd: float = Field(default=0, ge=0, description="US dollars a million input tokens from the cache")
    price_output_usd: float = Field(default=0, ge=0, description="US dollars a million output tokens")
    gpu_hour_usd: float = Field(default=0, ge=0, description="US dollars an hour of a GPU; instead of prices of tokens")
    gpus: float = Field(
        default=1, gt=0, description="GPUs paid for on this worker's behalf: the engine's, over its workers"
    )

    clickhouse_url: Annotated[str, _address(("http", "https"))] = Field(default="", description="http://host:8123")
    clickhouse_user: str = Field(default="default", description="user")
    clickhouse_password: SecretStr = Field(default=SecretStr(""), description="password")
    clickhouse_database: str = Field(default="weir", pattern=r"^[A-Za-z_]\w*$", description="database")
    clickhouse_cluster: str = Field(
        default="",
        pattern=r"^[\w.{}-]*$",
        description="cluster over which `weir migrate` spreads the tables; empty: one server",
    )
    clickhouse_ca_file: str = Field(default="", description="certificate authority for https; default: the system's")

    retention_days: Annotated[str, AfterValidator(_retention)] = Field(
        default="",
        description="days that tables keep their rows, source_rows=30,verdicts=400; `weir retention` applies it; "
        "tables not named are left alone",
    )

    openlineage_url: Annotated[str, AfterValidator(_events_address)] = Field(
        default="",
        description="where OpenLineage run events go: http://host:port of a catalogue, or file:///folder/file; empty: "
        "nowhere",
    )
    openlineage_api_key: SecretStr = Field(default=SecretStr(""), description="sent as a bearer token")
    openlineage_namespace: str = Field(default="weir", min_length=1, description="OpenLineage namespace of the jobs")

    tracing: bool = Field(
        default=False, description="send OpenTelemetry traces; where to is said by OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    tracing_ratio: float = Field(
        default=0.01, ge=0, le=1, description="share of the messages without traceparent that are traced"
    )

    reviews_topic: str = Field(
        default="reviews", pattern=r"^[A-Za-z0-9._-]{0,200}$", description="people's reviews of verdicts; empty: none"
    )
    reviews_wait_seconds: float = Field(
        default=60, ge=0, le=86_400, description="how long a review waits for its verdict to be in the store"
    )

    web_host: str = Field(default="127.0.0.1", description="address of /metrics and /health")
    web_port: int = Field(default=8080, ge=0, le=65535, description="port of /metrics and /health; 0: any")
    rows_in_flight: int = Field(default=4096, ge=1, le=100_000, description="rows that a stage works on at once")
    dead_letter_share: float = Field(
        default=0.5, ge=0, le=1, description="share of the last 200 rows above which the worker stops; 1: never"
    )
    drain_seconds: float = Field(default=30, ge=0, description="how long SIGTERM waits for rows in flight")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="how much is logged")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        mistakes = []
        if self.kafka_sasl_mechanism and not (self.kafka_user and self.kafka_password.get_secret_value()):
            mistakes.append("WEIR_KAFKA_SASL_MECHANISM needs WEIR_KAFKA_USER and WEIR_KAFKA_PASSWORD")
        if bool(self.kafka_cert_file) != bool(self.kafka_key_file):
            mistakes.append("WEIR_KAFKA_CERT_FILE and WEIR_KAFKA_KEY_FILE go together")
        if self.gpu_hour_usd and (self.price_input_usd or self.price_cached_usd or self.price_output_usd):
            mistakes.append("WEIR_GPU_HOUR_USD and WEIR_PRICE_*_USD: paid by the hour or by tokens, not both")
        for name in ("kafka_ca_file", "kafka_cert_file", "kafka_key_file", "clickhouse_ca_file", "engine_ca_file"):
            file = getattr(self, name)
            if file and not Path(file).is_file():
                mistakes.append(f"{_PREFIX}{name.upper()}: there is no file {file}")
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then the file that WEIR_SETTINGS names."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file_settings())

    @property
    def engine(self) -> EngineSettings:
        """The part for `inference`."""
        return EngineSettings(
            url=self.engine_url,
            api_key=self.engine_api_key.get_secret_value(),
            model=self.engine_model,
            dialect=self.engine_dialect,
            prompts_in_flight=self.engine_prompts_in_flight,
            prompts_per_request=self.engine_prompts_per_request,
            linger=self.engine_linger_seconds,
            timeout=self.engine_timeout_seconds,
            attempts=self.engine_attempts,
            context_tokens=self.engine_context_tokens,
            ca_file=self.engine_ca_file,
        )

    @property
    def prices(self) -> Prices:
        """What tokens cost."""
        return Prices(self.price_input_usd, self.price_cached_usd, self.price_output_usd, self.gpu_hour_usd, self.gpus)

    @property
    def store(self) -> StoreSettings:
        """The part for `sinks`."""
        return StoreSettings(
            url=self.clickhouse_url,
            user=self.clickhouse_user,
            password=self.clickhouse_password.get_secret_value(),
            database=self.clickhouse_database,
            ca_file=self.clickhouse_ca_file,
            cluster=self.clickhouse_cluster,
        )


def load(needs: Sequence[Server]) -> Settings:
    """The settings of this process. needs: the servers that it will use.

    Raises WorkerMisconfigured with every wrong, missing or unknown setting.
    """
    mistakes = _unknown_variables()
    try:
        file = _file_settings()
        settings = Settings()
        _keep(settings)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        mistakes += [line for problem in problems for line in _explain(problem).splitlines()]
    except WorkerMisconfigured as error:
        raise WorkerMisconfigured(f"settings: {error}") from error
    for name in (f"{server}_url" for server in needs):
        if not os.environ.get(_PREFIX + name.upper(), file.get(name)):
            mistakes.append(f"{_PREFIX}{name.upper()}: is not set ({_described(name)})")
    if mistakes:
        raise WorkerMisconfigured("settings:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    return settings


def _keep(settings: Settings) -> None:
    """Tell `streams.secrets` what must not be repeated."""
    users = {"kafka_password": settings.kafka_user, "clickhouse_password": settings.clickhouse_user}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            secrets.keep(users.get(name, ""), value.get_secret_value())


def _file_settings() -> dict[str, Any]:
    name = os.environ.get(_FILE_VARIABLE)
    if not name:
        return {}
    try:
        return tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WorkerMisconfigured(f"{_FILE_VARIABLE}: {name} cannot be used: {error}") from error


def _unknown_variables() -> list[str]:
    """Variables with our prefix that mean nothing: a typing mistake would otherwise go unnoticed."""
    known = [_PREFIX + name.upper() for name in Settings.model_fields] + [_FILE_VARIABLE]
    mistakes = []
    for name in os.environ:
        if name.startswith(_PREFIX) and name not in known and not name.startswith(f"{_PREFIX}TEST_"):
            close = difflib.get_close_matches(name, known, n=1)
            mistakes.append(f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else ""))
    return mistakes


def _described(name: str) -> str:
    return Settings.model_fields[name].description or ""


def _explain(problem: Any) -> str:
    name = ".".join(map(str, problem["loc"]))
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        reason = f"no such setting in the file that {_FILE_VARIABLE} names"
    return f"{_PREFIX}{name.upper()}: {reason}" if name else reason


def document() -> str:
    """docs/settings.md: name, default and meaning of every setting."""
    lines = [
        "# Settings",
        "",
        f"Environment variables, or a TOML file named by `{_FILE_VARIABLE}` with the same names in lower case and",
        "without the prefix. The environment wins. This page is generated: `make docs`.",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        default = "required" if name in _NEEDED else f"`{value}`" if value != "" else ""
        lines.append(f"| `{_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
