"""Between ranks and a detector that asks who they are: tokens and certificates that are wrong, or change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone

from chaos.fault import Fault, Loss
from chaos.scene import Scene
from stallwatch.detector.service.settings import Settings

SECONDS = 6.0


class Guarded:
    """Tokens and certificates of one detector."""

    def __init__(self, scene: Scene) -> None:
        from support.certificates import Authority

        self.folder = scene.folder / "secrets"
        self.folder.mkdir()
        self.authority = Authority(self.folder)
        self.certificate, self.key = self.authority.issue("server")
        self.tokens = self.folder / "tokens.toml"
        self.rank_token = self.folder / "rank-token"
        self.give(self.create("first"))
        scene.service.environment |= {
            "STALLWATCH_TOKENS": str(self.tokens),
            "STALLWATCH_OPEN_READ": "1",
            "STALLWATCH_TLS_CERT": str(self.certificate),
            "STALLWATCH_TLS_KEY": str(self.key),
            "STALLWATCH_HTTP_TLS": "0",
        }
        scene.watched.order["environment"] = {
            "STALLWATCH_TLS_CA": str(self.authority.path),
            "STALLWATCH_TOKEN_FILE": str(self.rank_token),
        }

    def create(self, name: str) -> str:
        """Make a token that may write."""
        secret: str = json.loads(self._command("create", name, "--scope", "write", "--json"))["token"]
        return secret

    def revoke(self, name: str) -> None:
        """End one."""
        self._command("revoke", name)

    def give(self, secret: str) -> None:
        """To the ranks."""
        part = self.rank_token.with_suffix(".part")
        part.write_text(secret)
        part.replace(self.rank_token)

    def _command(self, *arguments: str) -> str:
        command = [
            sys.executable,
            "-m",
            "stallwatch.detector",
            "token",
            *arguments,
            "--file",
            str(self.tokens),
        ]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60, env=dict(os.environ)
        ).stdout


def prepare(scene: Scene) -> None:
    """A detector with TLS and tokens."""
    scene.own = Guarded(scene)


def prepare_wrong(scene: Scene) -> None:
    """The same, and ranks with a token that it does not know."""
    prepare(scene)
    scene.own.give("swt_" + "0" * 40)


def through_the_relay(scene: Scene) -> str:
    """By TLS, end to end."""
    return f"https://{scene.relay.endpoint}"


def refused_reconnects(scene: Scene) -> None:
    """Break the connections, and train on without one."""
    scene.relay.reset()
    scene.train_for(SECONDS)


def token_rotated(scene: Scene) -> None:
    """The ranks' token ends before they have the next."""
    guarded = scene.own
    guarded.revoke("first")
    secret = guarded.create("second")

    def is_refused() -> bool:
        # The detector reads its file again within a second; streams that came in before stay.
        scene.relay.reset()
        refused = {"reason": "unauthenticated"}
        return bool(scene.service.metric("stallwatch_ingest_streams_refused_total", **refused))

    scene.wait_until("a refusal", is_refused, 30, 0.5)
    scene.train_for(SECONDS)
    guarded.give(secret)


def certificate_expired(scene: Scene) -> None:
    """The detector's certificate is replaced by an expired one, and that by a good one."""
    now = datetime.now(timezone.utc)
    scene.own.authority.issue("server", until=now - timedelta(hours=1))
    refused_reconnects(scene)
    scene.own.authority.issue("server")
    scene.relay.reset()


def wrong(scene: Scene) -> None:
    """Train without being heard."""
    scene.train_for(8)


FAULTS = (
    Fault("access/wrong-token", "the ranks have a token that the detector does not know", wrong,
          endpoint=lambda scene: f"https://{scene.service.grpc_address}", own_service=prepare_wrong, loss=Loss.ALL),
    Fault("access/token-rotated", "the ranks' token is revoked, and for 6 s and more they have no other", token_rotated,
          endpoint=through_the_relay, own_service=prepare),
    Fault("access/certificate-expired", "the detector's certificate is replaced by an expired one, connections break, and 6 s later by a good one",
          certificate_expired, endpoint=through_the_relay, own_service=prepare),
) if "tokens" in Settings.model_fields else ()  # fmt: skip
