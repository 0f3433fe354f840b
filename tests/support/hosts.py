"""Machines of a Ray cluster on this one: network namespaces on a bridge, each with a /tmp/ray and a /dev/shm of its own.

As the pods of a Kubernetes cluster are: a Ray node, and beside it whatever shares its network and its files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.reserved import reserve_network
from support.service import Service
from support.waiting import wait_until

RAY_PORT = 6379
START_SECONDS = 120.0


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def allowed() -> bool:
    """Whether this user may make network and mount namespaces."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    made = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False)
    bridged = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "probe", "type", "bridge"], capture_output=True, check=False
    )
    return made.returncode == 0 and bridged.returncode == 0


class Network:
    """A bridge of this machine, with a number that no other test uses."""

    def __init__(self) -> None:
        self.number = reserve_network()
        self.bridge = f"swbridge{self.number}"
        self.gateway = f"10.77.{self.number}.1"
        """This machine's own address on the bridge."""
        self.ray_folder = Path(f"/tmp/swray{self.number}")
        """Where Ray's files are on each host: sockets are there, and a socket's path must be short."""


class Host:
    """One machine, with a Ray node when `start_ray` was called."""

    def __init__(self, network: Network, number: int, logs: Path) -> None:
        self.address = f"10.77.{network.number}.{number}"
        self.log = logs / f"host{number}.log"
        self._folder = network.ray_folder
        self._name = f"stallwatch{network.number}-{number}"
        inside, outside = "eth0", f"swveth{network.number}-{number}"
        # Left by a test run that was killed.
        subprocess.run(["ip", "netns", "del", self._name], capture_output=True, check=False)
        _run(f"ip netns add {self._name}")
        _run(f"ip link add {outside} type veth peer name {inside} netns {self._name}")
        _run(f"ip link set {outside} master {network.bridge} up")
        _run(f"ip -n {self._name} addr add {self.address}/24 dev {inside}")
        for interface in ("lo", inside):
            _run(f"ip -n {self._name} link set {interface} up")
        # Programs learn their own address from the route to the outside.
        _run(f"ip -n {self._name} route add default via {network.gateway}")
        # Holds the mounts: what is started later enters them.
        mounts = f"mount -t tmpfs none {self._folder} && mount -t tmpfs none /dev/shm && exec sleep infinity"
        self._holder = subprocess.Popen(
            ["ip", "netns", "exec", self._name, "unshare", "-m", "sh", "-c", mounts]
        )
        wait_until("the mounts", self._mounted)
        self._ray: subprocess.Popen[bytes] | None = None

    def enter(self) -> list[str]:
        """What a command line begins with to run here."""
        return ["nsenter", "--target", str(self._holder.pid), "--net", "--mount", "--"]

    def start_ray(self, *arguments: str) -> None:
        """Start a Ray node, and wait until it is up; what one that died has left is removed, as the chart does."""
        subprocess.run([*self.enter(), "sh", "-c", f"rm -rf {self._folder}/*"], check=True)
        ray = shutil.which("ray", path=Path(sys.executable).parent)
        assert ray is not None
        command = [*self.enter(), ray, "start", *arguments, "--block", "--disable-usage-stats"]
        command += ["--object-store-memory", "80000000"]
        with self.log.open("wb") as log:
            self._ray = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

        def up() -> bool:
            assert self._ray is not None
            assert self._ray.poll() is None, self.log.read_text()
            return b"Ray runtime started" in self.log.read_bytes()

        wait_until("the Ray node", up, START_SECONDS)

    def kill_ray(self) -> None:
        """End the Ray node, if there is one, as a container that is killed."""
        if self._ray is None:
            return
        listed = subprocess.run(
            ["ip", "netns", "pids", self._name], capture_output=True, text=True, check=True
        ).stdout
        for pid in listed.split():
            # One that ends because another did is gone already.
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if arguments[0].endswith(b"/raylet") or b"start" in arguments[1:3]:
                    os.kill(int(pid), signal.SIGKILL)
        self._ray.wait(30)
        self._ray = None

    def remove(self) -> None:
        """End everything that runs here, and the machine."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self._name], capture_output=True, text=True, check=False
        )
        for pid in listed.stdout.split():
            subprocess.run(["kill", "-9", pid], capture_output=True, check=False)
        self._holder.wait(30)
        if self._ray is not None:
            self._ray.wait(30)
        subprocess.run(["ip", "netns", "del", self._name], capture_output=True, check=False)

    def _mounted(self) -> bool:
        return f"none {self._folder} tmpfs" in Path(f"/proc/{self._holder.pid}/mounts").read_text()


@contextmanager
def hosts(count: int, logs: Path) -> Iterator[tuple[Network, list[Host]]]:
    """Machines that reach each other and this one."""
    network = Network()
    network.ray_folder.mkdir(exist_ok=True)
    subprocess.run(["ip", "link", "del", network.bridge], capture_output=True, check=False)
    _run(f"ip link add {network.bridge} type bridge")
    made: list[Host] = []
    try:
        _run(f"ip addr add {network.gateway}/24 dev {network.bridge}")
        _run(f"ip link set {network.bridge} up")
        made.extend(Host(network, number, logs) for number in range(2, 2 + count))
        yield network, made
    finally:
        for host in made:
            host.remove()
        subprocess.run(["ip", "link", "del", network.bridge], capture_output=True, check=False)
        shutil.rmtree(network.ray_folder, ignore_errors=True)


class HostedService(Service):
    """A detector on one of the machines."""

    def __init__(self, host: Host, directory: Path, *arguments: str) -> None:
        super().__init__(directory, "--host", "0.0.0.0", *arguments)
        self.host = host

    @property
    def grpc_address(self) -> str:
        """Where agents connect to."""
        return f"{self.host.address}:{self.grpc_port}"

    @property
    def url(self) -> str:
        """Where HTTP is served."""
        return f"http://{self.host.address}:{self.http_port}"

    def command(self) -> list[str]:
        """The command line, up to the extra arguments."""
        return [*self.host.enter(), *super().command()]
