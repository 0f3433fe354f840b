"""Certificates from files: what cannot be used is said in one sentence, and a change is shown to the next connection."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import datetime, timedelta, timezone

import pytest

from stallwatch.detector.auth.tls import TlsFiles, TlsPaths, not_after
from stallwatch.detector.errors import UsageError
from support.certificates import Authority


@pytest.fixture
def authority(tmp_path) -> Authority:
    """One that issues certificates into the test's folder."""
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("no cert", "--tls-cert {0} cannot be read: No such file"),
        ("no key", "--tls-key {1} cannot be read: No such file"),
        ("other key", "are no PEM certificate and its key: key values mismatch"),
        ("text", "are no PEM certificate and its key"),
        ("ca is text", "--tls-client-ca {2} holds no PEM certificates"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(authority, tmp_path, broken, says):
    """Which option, and what is wrong with its file."""
    certificate, key = authority.issue("server")
    paths = TlsPaths(certificate, key, authority.path)
    match broken:
        case "no cert":
            certificate.unlink()
        case "no key":
            key.unlink()
        case "other key":
            key.write_bytes(authority.issue("other")[1].read_bytes())
        case "text":
            certificate.write_text("hello")
        case "ca is text":
            authority.path.write_text("hello")
    with pytest.raises(UsageError) as raised:
        TlsFiles(paths)
    assert says.format(certificate, key, authority.path) in str(raised.value)
    assert "\n" not in str(raised.value)


def serial(context: ssl.SSLContext, authority: Authority) -> str:
    """Of the certificate that a client without SNI sees."""
    client = ssl.create_default_context(cafile=authority.path)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with context.wrap_socket(theirs, server_side=True) as connection:
            connection.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    client.check_hostname = False
    with client.wrap_socket(ours) as connection:
        found = connection.getpeercert()["serialNumber"]
        assert connection.version() in {"TLSv1.2", "TLSv1.3"}
        connection.send(b"x")
    thread.join(10)
    return found


def test_a_change_is_shown_to_the_next_connection_and_half_of_one_is_not(authority, caplog):
    """Certificate and key are two files: between the writing of the first and of the second, the pair before holds."""
    certificate, key = authority.issue("server")
    files = TlsFiles(TlsPaths(certificate, key))
    context = files.server_context()
    first = serial(context, authority)
    next_certificate, next_key = authority.issue("next")
    certificate.write_bytes(next_certificate.read_bytes())
    assert not files.refresh()
    assert not files.refresh()
    assert "key values mismatch" in (files.problem or "")
    assert serial(context, authority) == first
    key.write_bytes(next_key.read_bytes())
    assert files.refresh()
    assert files.problem is None
    assert serial(context, authority) != first
    assert len([record for record in caplog.records if "still shown" in record.getMessage()]) == 1
    assert not files.refresh()


def test_old_versions_of_tls_are_refused(authority):
    """A client of TLS 1.1 gets no connection."""
    files = TlsFiles(TlsPaths(*authority.issue("server")))
    assert files.server_context().minimum_version == ssl.TLSVersion.TLSv1_2
    assert files.material.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_until_when_a_certificate_is_valid(authority):
    """The first of the file, which is the server's own."""
    end = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=5)
    certificate, _key = authority.issue("server", until=end)
    assert not_after(certificate.read_bytes()) == end
