"""Where alerts are sent directly: nowhere unless told, since Prometheus and its rules are the usual way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class Webhook(BaseModel):
    """One receiver of events. Addresses of chat systems are secrets: they are never logged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr | None = None
    """Address that gets a POST for each event."""
    url_file: Path | None = None
    """File with the address, instead of `url`; read at each event, so that it may change."""
    token_file: Path | None = None
    """File with a token that is sent as `Authorization: Bearer TOKEN`; read at each event."""
    format: Literal["json", "slack"] = "json"
    """`json` for the whole event; `slack` for `{"text": ...}`, which Slack, Mattermost and others take."""
    retry_seconds: float = Field(900.0, ge=0)
    """How long an event that is not taken is tried again before it is given up."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: SecretStr | None) -> SecretStr | None:
        return None if url is None else _checked(url)

    @model_validator(mode="after")
    def _has_one_address(self) -> Webhook:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("a webhook needs one of url and url_file")
        return self

    def address(self) -> str:
        """Where to send to."""
        if self.url is not None:
            return self.url.get_secret_value()
        assert self.url_file is not None
        return self.url_file.read_text(encoding="utf-8").strip()

    def token(self) -> str | None:
        """What to send along."""
        return None if self.token_file is None else self.token_file.read_text(encoding="utf-8").strip()


class AlertSettings(BaseModel):
    """Direct outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alertmanagers: tuple[SecretStr, ...] = ()
    """Addresses of Alertmanagers, like `http://alertmanager:9093`; every one gets every alert."""
    resend_seconds: float = Field(60.0, gt=0)
    """How often firing alerts are sent again; an Alertmanager that hears nothing resolves them after four times as long."""
    webhooks: tuple[Webhook, ...] = ()
    """Receivers of events, each once when an alert begins to fire and once when it is over."""

    @field_validator("alertmanagers")
    @classmethod
    def _are_addresses(cls, urls: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(_checked(url) for url in urls)


NO_OUTPUTS = AlertSettings.model_validate({})


def _checked(url: SecretStr) -> SecretStr:
    parts = urlsplit(url.get_secret_value())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must be an address like https://host/path")
    return url
