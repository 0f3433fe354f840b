"""Settings of the service: argument over environment over file over default."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from stallwatch.detector.alerts.naming import DEFAULT_EXTERNAL_URL
from stallwatch.detector.alerts.settings import NO_OUTPUTS, AlertSettings, Webhook
from stallwatch.detector.auth.tls import TlsPaths
from stallwatch.detector.errors import UsageError
from stallwatch.detector.service.analysis_settings import analysis_config

ENVIRONMENT_PREFIX = "STALLWATCH_"
LOOPBACK = frozenset({"localhost", "::1"})
EXPOSED = (
    "everybody who reaches {host} may send, read and silence: give --tokens FILE (`stallwatch token create` makes them), "
    "or listen on 127.0.0.1"
)
"""What is said when the service is exposed."""
_file: ContextVar[Path | None] = ContextVar("file", default=None)
"""Where `load` reads from: making a class for each file would cost ten times as much."""


class Settings(BaseSettings):
    """What `stallwatch serve` can be told. Each is also an environment variable, STALLWATCH_ and the name in capitals."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    """Address to listen on, for gRPC and HTTP; 0.0.0.0 lets other machines in."""
    grpc_port: int = Field(9846, ge=0, le=65535)
    """Port that agents stream to; 0 takes a free one."""
    http_port: int = Field(9847, ge=0, le=65535)
    """Port of the page, the API and /metrics; 0 takes a free one."""
    data_dir: Path = Path(platformdirs.user_data_dir("stallwatch"))
    """Folder of the store and of service.json."""
    store_url: str | None = None
    """SQLAlchemy URL of the store; DATA_DIR/stallwatch.db when not given."""
    ray_address: str | None = None
    """HOST:PORT of the head of an existing Ray cluster; RAY_ADDRESS, or an embedded Ray, when not given."""
    record: Path | None = None
    """Folder to record into what each run's analyzer is fed."""
    max_runs: int = Field(64, ge=1)
    """Runs watched at the same time: each is a process of about 150 MB."""
    max_streams: int = Field(10_000, ge=1)
    """Ranks connected at the same time."""
    snapshot_seconds: float = Field(1.0, gt=0)
    """Least time between two snapshots of a run."""
    finished_run_seconds: float = Field(900.0, ge=0)
    """How long a finished run stays in memory and in /metrics; after that it is read from the store."""
    silent_run_seconds: float = Field(86_400.0, ge=0)
    """The same for a run whose ranks have gone without a goodbye."""
    external_url: str = DEFAULT_EXTERNAL_URL
    """Where people reach the detector: the links in alerts lead there."""
    grafana_url: str | None = None
    """Where people reach Grafana, when there is one with Stallwatch's dashboards: links to dashboards lead there."""
    alerts: AlertSettings = NO_OUTPUTS
    """Where alerts are sent directly: a table in the file, JSON in the environment; see below."""
    analysis: dict[str, Any] = Field(default_factory=dict)
    """Settings of the analysis: a table in the file, JSON in the environment; see below."""
    shutdown_seconds: float = Field(10.0, ge=0)
    """At the end: how long to wait for what was received to be analyzed and saved."""
    tokens: Path | None = None
    """Tokens file: who may write, read and administer which runs; nobody is asked when not given. Read again when it changes."""
    open_read: bool = False
    """Let the page, the API's GET requests and /metrics be read without a token."""
    tls_cert: Path | None = None
    """PEM certificate, with its chain, that agents and readers see; no TLS when not given. Read again when it changes."""
    tls_key: Path | None = None
    """PEM key of the certificate."""
    tls_client_ca: Path | None = None
    """PEM certificates of authorities: agents must show a certificate of one of them."""
    http_tls: bool = True
    """Whether HTTP has TLS too, where there is a certificate; not where an ingress does that."""
    max_ranks_per_run: int = Field(16_384, ge=1)
    """Streams of one run at the same time; never more than three quarters of max_streams."""
    max_run_mib_per_second: float = Field(32.0, gt=0)
    """What one run may send lastingly; twice as much at once."""
    max_memory_mib: float | None = Field(None, gt=0)
    """What all analyzers together may hold in memory; above it finished and silent runs leave early, and no new one is taken."""
    max_queued_mib: float = Field(256.0, gt=0)
    """What may wait for analyzers, over all runs; beyond it runs that hold much are not read from."""

    @field_validator("external_url", "grafana_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc):
            raise ValueError("it must be an address like https://stallwatch.example.com")
        return url

    @model_validator(mode="after")
    def _has_both_files(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise ValueError(f"{missing} is missing: tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self

    @property
    def tls_paths(self) -> TlsPaths | None:
        """The files of the service's certificate; None for no TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsPaths(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def http_scheme(self) -> str:
        """`https` or `http`."""
        return "https" if self.tls_cert is not None and self.http_tls else "http"

    @property
    def is_read_by_https(self) -> bool:
        """Whether people reach the page by https, here or at what stands in front."""
        return "https" in {self.http_scheme, urlsplit(self.external_url).scheme}

    @property
    def is_exposed(self) -> bool:
        """Whether whoever reaches this machine over the network may do everything."""
        return self.tokens is None and not self.is_local

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the service."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file that `load` names."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file.get())


def load(arguments: dict[str, Any], file: Path | None) -> Settings:
    """The settings from what was given on the command line (None: not given), the environment and a TOML file."""
    if file is not None and not file.is_file():
        raise UsageError(f"--config {file}: there is no such file")
    given = {name: value for name, value in arguments.items() if value is not None}
    before = _file.set(file)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(_fields(name))
            raise UsageError(f"there is no setting {name}: the settings are {known}") from None
        # What is set below `alerts` may be a secret.
        if not name:
            raise UsageError(f"settings: {first['msg'].removeprefix('Value error, ')}") from None
        # A password may be part of an address.
        secret = name.startswith("alerts") or name == "store_url"
        what = name if secret else f"{name} is {first.get('input')!r}"
        raise UsageError(f"setting {what}: {first['msg'].lower()}") from None
    except ValueError as error:
        raise UsageError(f"--config {file} is no TOML: {error}") from None
    finally:
        _file.reset(before)
    analysis_config(settings.analysis)
    return settings


def _fields(name: str) -> Iterable[str]:
    """The settings among which `name` was looked for."""
    if name.startswith("alerts.webhooks."):
        return Webhook.model_fields
    return AlertSettings.model_fields if name.startswith("alerts.") else Settings.model_fields
