"""Between ranks and detector: nothing there, the wrong thing there, and lines that break, crawl or fall silent."""

from __future__ import annotations

from chaos.fault import Fault, Loss
from chaos.scene import Scene
from support.rank import Rank, hello, steps
from support.reserved import reserve_port

FLAPS = 16
FLAP_SECONDS = 0.5
SILENT_SECONDS = 8.0


def nobody(scene: Scene) -> None:
    """Train on."""
    scene.train_for(8)


def silence_from_the_start(scene: Scene) -> None:
    """Train on until the agents have given up at least one connection and tried again."""
    scene.wait_until("a second try", lambda: scene.mute.connections > 2, 60)
    scene.train_on(50)


def flapping(scene: Scene) -> None:
    """Break the connections again and again."""
    for _ in range(FLAPS):
        scene.relay.reset()
        scene.train_for(FLAP_SECONDS)


def crawling(scene: Scene) -> None:
    """300 ms later, and 20 kB/s."""
    scene.relay.delay_seconds, scene.relay.bytes_per_second = 0.3, 20_000.0
    scene.train_for(10)
    scene.relay.delay_seconds = scene.relay.bytes_per_second = 0.0


def half_open(scene: Scene) -> None:
    """Whatever is sent is lost on the way, in both directions, and nobody is told; at last a reset."""
    scene.relay.swallows = True
    scene.train_for(SILENT_SECONDS)
    scene.relay.swallows = False
    scene.relay.reset()


def another_run(scene: Scene) -> str:
    """Take the detector's only place first."""
    other = Rank(scene.service.grpc_address, hello("chaos/other"))
    other.send(steps(0, 10))
    other.wait_durable()
    scene.callback(other.vanish)
    scene.own = other
    return scene.service.grpc_address


def full(scene: Scene) -> None:
    """Train without being heard, until the other run is over."""
    refused = {"reason": "too_many_runs"}
    scene.wait_until(
        "refusals", lambda: scene.service.metric("stallwatch_ingest_streams_refused_total", **refused)
    )
    scene.train_for(6)
    scene.own.finish()


FAULTS = (
    Fault("network/nobody-there", "no detector, for the whole job", nobody,
          endpoint=lambda _: f"127.0.0.1:{reserve_port()}", loss=Loss.ALL),
    Fault("network/never-answers", "what listens at the address takes connections and says nothing", silence_from_the_start,
          endpoint=lambda scene: scene.mute.endpoint, loss=Loss.ALL),
    Fault("network/wrong-port", "the address is that of the detector's page, not of its agents' port", nobody,
          endpoint=lambda scene: f"127.0.0.1:{scene.service.http_port}", loss=Loss.ALL),
    Fault("network/newer-protocol", "the agent speaks the next major version of the protocol and is refused", nobody,
          inject="newer_protocol", loss=Loss.ALL),
    Fault("network/flapping", "every connection is reset every 0.5 s, for 8 s", flapping,
          endpoint=lambda scene: scene.relay.endpoint),
    Fault("network/slow", "300 ms of delay and 20 kB/s, for 10 s", crawling, endpoint=lambda scene: scene.relay.endpoint),
    Fault("network/half-open", "bytes vanish in both directions for 8 s, then a reset", half_open,
          endpoint=lambda scene: scene.relay.endpoint),
    Fault("network/detector-full", "another run has the only place (`--max-runs 1`) for the first 6 s and more", full,
          endpoint=another_run, service_arguments=("--max-runs", "1"), refused_first=True),
)  # fmt: skip
