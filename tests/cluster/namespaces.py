"""Machines on one: each in network, process, mount and host-name namespaces of its own, on a network of their own.

Everything ends with the process that opened the network, however that ends: every namespace is held by a process that
is killed with its parent, and what is in a namespace goes with it.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

_PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "mount", "hostname")
_TIMEOUT_S = 30.0
_RAY_FOLDER = Path("/tmp/ray")
_OWN = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net"]
_MACHINE = [*_OWN, "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_BOOT = """
set -eu
hostname "$1"
mount -t tmpfs -o size=2g none /dev/shm
mount --bind "$2/ray" /tmp/ray
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
until ip route | grep -q default; do sleep 0.05; done
exec /bin/bash -c -- "$3"
"""
"""Then the command, which is process 1 there: when it ends, all else on the machine does."""


@dataclass
class Machine:
    """pid: of its process 1, as it is called outside; log: what that prints."""

    name: str
    address: str
    log: Path
    environment: dict[str, str]
    pid: int
    _holder: subprocess.Popen[bytes]

    def run(self, command: list[str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command there, beside what runs already, and wait for it."""
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--mount", "--pid", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @property
    def is_up(self) -> bool:
        """Whether its process 1 runs."""
        return self._holder.poll() is None

    def cut_power(self) -> None:
        """SIGKILL of everything on it, at once; its network goes too."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._holder.wait(_TIMEOUT_S)


@dataclass
class Network:
    """A switch to which machines are connected, and this machine as `gateway`. folder: for what machines keep."""

    folder: Path
    subnet: str
    machines: list[Machine] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    _switch: int = 0

    @property
    def gateway(self) -> str:
        """This machine's own address."""
        return f"{self.subnet}.1"

    def next_address(self) -> str:
        """That the next machine will have."""
        return f"{self.subnet}.{len(self.machines) + 2}"

    def add(self, name: str, command: str, environment: Mapping[str, str]) -> Machine:
        """A machine that runs this line of Bash. It knows itself and the `names` of others, by their addresses.

        Its own are the files in /tmp/ray and /dev/shm, and what names mean; all others it shares with this machine.
        """
        address, home = self.next_address(), self.folder / name
        (home / "ray").mkdir(parents=True)
        hosts = {"localhost": "127.0.0.1", name: address, **self.names}
        (home / "hosts").write_text("".join(f"{ip} {host}\n" for host, ip in hosts.items()))
        (home / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # nobody: names that are not listed fail at once
        _RAY_FOLDER.mkdir(exist_ok=True)
        log = home / "log"
        with log.open("wb") as out:
            holder = subprocess.Popen(
                [*_MACHINE, "bash", "-c", _BOOT, "boot", name, str(home), command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            pid = _child(holder)
        except BaseException:
            holder.kill()
            raise
        machine = Machine(name, address, log, dict(environment), pid, holder)
        self.machines.append(machine)
        self._connect(machine)
        return machine

    def _connect(self, machine: Machine) -> None:
        port = f"m{len(self.machines)}"
        _inside(machine.pid, f"link add eth0 type veth peer name {port} netns {self._switch}")
        _inside(self._switch, f"link set {port} master br0 up")
        for settings in (
            f"address add {machine.address}/24 dev eth0",
            "link set lo up",
            "link set eth0 up",
            f"route add default via {self.gateway}",
        ):
            _inside(machine.pid, settings)

    def log(self) -> str:
        """The end of what each machine has printed."""
        return "\n".join(f"--- {m.name}\n{m.log.read_text(errors='replace')[-2000:]}" for m in self.machines)


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network that lives within; all machines that are still there are ended with it."""
    port = f"rf{os.getpid()}"
    with subprocess.Popen([*_OWN, "sleep", "infinity"]) as switch:
        found = Network(folder, f"10.77.{os.getpid() % 254 + 1}", _switch=switch.pid)
        try:
            _wait_until(lambda: _has_own_network(switch.pid), "the switch got no network namespace")
            _inside(switch.pid, "link add br0 type bridge")
            _inside(switch.pid, "link set br0 up")
            _ip(f"link add {port} type veth peer name host netns {switch.pid}")
            _inside(switch.pid, "link set host master br0 up")
            _ip(f"address add {found.gateway}/24 dev {port}")
            _ip(f"link set {port} up")
            yield found
        finally:
            for machine in found.machines:
                machine.cut_power()
            switch.kill()
            switch.wait(_TIMEOUT_S)
            _wait_until(lambda: not Path("/sys/class/net", port).exists(), f"{port} is still there")


def need_namespaces() -> None:
    """Skip the test, with the reason, where such machines cannot be made; in CI that is a failure."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"needs {', '.join(missing)}: `make services` as root installs what makes namespaces"
    else:
        tried = subprocess.run([*_MACHINE, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return
        reason = f"namespaces cannot be made here: {tried.stderr.strip()}: run as root, with CAP_SYS_ADMIN"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _child(holder: subprocess.Popen[bytes]) -> int:
    """Process 1 of the machine, as soon as it is there: it is forked when the namespaces are made."""
    process = psutil.Process(holder.pid)
    _wait_until(process.children, f"no machine: {shlex.join(_MACHINE)} made no process")
    return process.children()[0].pid


def _has_own_network(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def _wait_until(condition: Callable[[], object], otherwise: str) -> None:
    give_up = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(otherwise)
        time.sleep(0.02)


def _inside(pid: int, settings: str) -> None:
    _run(["nsenter", "--target", str(pid), "--net", "ip", *settings.split()])


def _ip(settings: str) -> None:
    _run(["ip", *settings.split()])


def _run(command: list[str]) -> None:
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        raise AssertionError(f"{shlex.join(command)}: {tried.stderr.strip()}")
