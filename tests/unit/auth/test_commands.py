"""`stallwatch token`, what `serve` refuses, and what `doctor` says: in one sentence, and without a secret."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from typer.testing import CliRunner

from stallwatch.detector.auth import files, tokens
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.cli import build
from stallwatch.detector.errors import UsageError
from stallwatch.detector.service.examination_access import examine_access
from stallwatch.detector.service.settings import Settings, load
from support.certificates import Authority


def run(*arguments: object):
    """The command, in this process; UsageError is what `main` makes exit code 2 of."""
    given = [str(each) for each in arguments]
    return CliRunner().invoke(build(given), given)


def test_a_token_is_printed_once_and_kept_as_a_hash(tmp_path):
    """Alone on standard output, so that it can go into a file; what the file then holds lets it in."""
    path = tmp_path / "tokens.toml"
    made = run(
        "token",
        "create",
        "one",
        "--scope",
        "write",
        "--scope",
        "read",
        "--run",
        "a*",
        "--run",
        "b",
        "--file",
        path,
    )
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert re.fullmatch(r"swt_[A-Za-z0-9_-]{43}", secret)
    assert secret not in made.stderr + path.read_text()
    assert Gate(path).authenticate(f"Bearer {secret}").principal.runs == ("a*", "b")
    listed = run("token", "list", "--file", path)
    assert listed.stdout == "one: write, read for a*, b\n"
    assert run("token", "revoke", "one", "--file", path).exit_code == 0
    assert files.read(path).entries == ()


def test_for_programs(tmp_path, monkeypatch):
    """JSON, the file from the environment, limits and an end."""
    path = tmp_path / "tokens.toml"
    monkeypatch.setenv("STALLWATCH_TOKENS", str(path))
    limits = ("--max-streams", "8", "--max-bytes-per-second", "100000", "--max-runs", "3")
    made = json.loads(
        run("token", "create", "one", "--scope", "read", "--expires", "90d", *limits, "--json").stdout
    )
    (listed,) = json.loads(run("token", "list", "--json").stdout)
    assert made.pop("token").startswith("swt_")
    assert made.pop("file") == str(path)
    assert made == listed
    assert (listed["max_streams"], listed["max_bytes_per_second"], listed["max_runs"]) == (8, 100_000, 3)
    assert listed["status"] == "valid"
    end = datetime.fromisoformat(listed["expires"].replace("Z", "+00:00"))
    assert timedelta(days=89.9) < end - datetime.now(timezone.utc) <= timedelta(days=90)
    assert "hash" not in listed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "one"), "say with --scope what the token is for"),
        (
            ("create", "one", "--scope", "root"),
            "token: scopes[0]: input should be 'write', 'read' or 'administer'",
        ),
        (("create", "a b", "--scope", "read"), "token: name: string should match pattern"),
        (("create", "one", "--scope", "read", "--expires", "soon"), "--expires 'soon' is no duration"),
        (("create", "one", "--scope", "read", "--expires", "0d"), "--expires '0d' is no duration"),
        (("create", "there", "--scope", "read"), "has a token there already: revoke it first"),
        (("revoke", "nobody"), "has no token nobody: it has there"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, arguments, says):
    """And the file stays as it is."""
    path = tmp_path / "tokens.toml"
    files.add(path, tokens.entry_of({"name": "there", "hash": tokens.hash_of("x"), "scopes": ["read"]}))
    before = path.read_text()
    done = run("token", *arguments, "--file", path)
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_cert": "a"}, "settings: tls_key is missing: tls_cert and tls_key go together"),
        ({"tls_key": "a"}, "settings: tls_cert is missing: tls_cert and tls_key go together"),
        ({"tls_client_ca": "a"}, "settings: tls_client_ca needs tls_cert and tls_key"),
    ],
)
def test_settings_that_do_not_go_together(settings, says):
    """Are refused with what is missing."""
    with pytest.raises(UsageError) as raised:
        load(settings, None)
    assert str(raised.value) == says


def test_a_store_address_that_is_wrong_is_not_shown(tmp_path):
    """It may hold a password."""
    file = tmp_path / "s.toml"
    file.write_text('store_url = ["postgresql://u:s3cret@h/d"]\n')
    with pytest.raises(UsageError) as raised:
        load({}, file)
    assert "setting store_url:" in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("option", ["--tokens", "--tls-cert"])
def test_serve_does_not_start_with_files_that_it_cannot_use(tmp_path, option):
    """Before the store is opened and Ray is started."""
    certificate, key = Authority(tmp_path).issue("server")
    certificate.write_text("no certificate")
    (tmp_path / "tokens.toml").write_text("[[token]]\n")
    given = (
        ("--tokens", tmp_path / "tokens.toml")
        if option == "--tokens"
        else ("--tls-cert", certificate, "--tls-key", key)
    )
    command = [
        "serve",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--data-dir",
        str(tmp_path / "data"),
        *map(str, given),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "stallwatch.detector", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("stallwatch: tokens file" if option == "--tokens" else "stallwatch: --tls-cert")
    assert not (tmp_path / "data").exists()


def said(**settings) -> dict[str, tuple[str, str]]:
    """What doctor says of access, by name: the last of each."""
    found = examine_access(Settings(**settings))
    return {each.name: (each.status, f"{each.says} {each.fix}") for each in found}


def test_doctor_warns_before_something_ends_and_shows_no_secret(tmp_path):
    """14 days before, of tokens and certificates; afterwards it is a problem."""
    now = datetime.now(timezone.utc)
    authority = Authority(tmp_path)
    path = tmp_path / "tokens.toml"
    for name, days in (("good", 100), ("ending", 5)):
        files.add(
            path,
            tokens.entry_of(
                {
                    "name": name,
                    "hash": tokens.hash_of(name),
                    "scopes": ["read"],
                    "expires": now + timedelta(days=days),
                }
            ),
        )
    for days, status in ((100, "ok"), (5, "warning"), (-1, "problem")):
        certificate, key = authority.issue("server", until=now + timedelta(days=days))
        found = said(tokens=path, tls_cert=certificate, tls_key=key)
        assert found["tls"][0] == status, found
    assert found["tokens"][0] == "warning"
    assert "expired or about to: ending" in found["tokens"][1]
    assert "good" in found["tokens"][1]
    for secret in (tokens.hash_of("good"), key.read_text()):
        assert secret.removeprefix("sha256:") not in str(found)


@pytest.mark.parametrize(
    ("settings", "name", "status", "says"),
    [
        ({}, "tokens", "ok", "whoever reaches 127.0.0.1 may do everything"),
        ({"host": "::1"}, "tokens", "ok", "none"),
        (
            {"host": "0.0.0.0"},
            "tokens",
            "warning",
            "everybody who reaches 0.0.0.0 may send, read and silence",
        ),
        ({"host": "10.0.0.1"}, "tokens", "warning", "give --tokens FILE"),
        ({"tokens": "/nowhere"}, "tokens", "problem", "cannot be read: No such file"),
        ({"host": "0.0.0.0", "tokens": "FILE"}, "tls", "warning", "tokens can be read on the way"),
        (
            {"tls_cert": "/nowhere", "tls_key": "/nowhere"},
            "tls",
            "problem",
            "--tls-cert /nowhere cannot be read",
        ),
    ],
)
def test_doctor_says_what_is_open(tmp_path, settings, name, status, says):
    """And what to do about it."""
    if settings.get("tokens") == "FILE":
        settings = {**settings, "tokens": tmp_path / "tokens.toml"}
        (tmp_path / "tokens.toml").write_text("")
    found = said(**settings)[name]
    assert found[0] == status
    assert says in found[1]
