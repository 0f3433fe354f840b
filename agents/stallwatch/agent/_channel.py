"""How to reach the detector: channel, transport security and credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from stallwatch.agent._config import Settings

_OPTIONS: list[tuple[str, int]] = [
    # Dead peers are noticed; the server has to permit pings as often.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Reconnecting is the transport's business, with a backoff of its own; without these two, gRPC's would come on top.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
]


def open_channel(settings: Settings) -> grpc.Channel:
    """A new channel. One for each connection: files of certificates are read again, as they rotate."""
    import grpc

    endpoint = settings.endpoint
    if endpoint is None:
        message = "no endpoint"
        raise ValueError(message)
    if not (endpoint.secure or settings.tls_ca or settings.tls_cert):
        return grpc.insecure_channel(endpoint.address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.tls_ca),
        private_key=_read(settings.tls_key),
        certificate_chain=_read(settings.tls_cert),
    )
    return grpc.secure_channel(endpoint.address, credentials, options=_OPTIONS)


def metadata(settings: Settings) -> tuple[tuple[str, str], ...]:
    """What goes with each stream: the bearer token, if there is one."""
    token = settings.token
    if settings.token_file is not None:
        token = settings.token_file.read_text(encoding="ascii").strip()
    return (("authorization", f"Bearer {token}"),) if token else ()


def credentials_stamp(settings: Settings) -> tuple[tuple[int, int] | None, ...]:
    """Changes when a file of a token or certificate does: secrets are rotated by replacing their files."""
    return tuple(
        map(_stamp, (settings.token_file, settings.tls_ca, settings.tls_cert, settings.tls_key)),
    )


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        return None if path is None else ((status := path.stat()).st_mtime_ns, status.st_ino)
    except OSError:
        return None


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
