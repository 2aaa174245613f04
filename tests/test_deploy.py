"""The files in ``examples/deploy``: each is parsed, its command is accepted, and the worker runs as in a container."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest

from txgearman.cli.exit_codes import ExitCode

from .cli.harness import PROCESS_TIMEOUT, parse_command, run_process, start_process
from .daemons import Gearmand, free_port
from .processes import EXAMPLES, ROOT
from .programs import require_program

DEPLOY: Final = EXAMPLES / "deploy"
FILES: Final = {path.name: path.read_text("utf-8") for path in sorted(DEPLOY.iterdir()) if path.is_file()}
UNITS: Final = sorted(name for name in FILES if name.endswith(".service"))
WORKER_UNITS: Final = [name for name in UNITS if "worker" in name]


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)s?", text)
    assert match
    return int(match[1])


def setting(unit: str, name: str) -> str:
    """Return the value of a setting that the unit has once."""
    (value,) = re.findall(rf"^{name}=(.*)$", FILES[unit], re.MULTILINE)
    return str(value)


def directive(name: str) -> str:
    """Return what follows an instruction that the Dockerfile has once."""
    (value,) = re.findall(rf"^{name} (.*)$", FILES["Dockerfile"], re.MULTILINE)
    return str(value)


def load(name: str) -> Any:
    return importlib.import_module("yaml").safe_load(FILES[name])


def pod() -> Any:
    return load("kubernetes.yaml")["spec"]["template"]["spec"]


def option(command: list[str], name: str) -> str:
    """Return the value of an option, after a space or an equals sign."""
    words = [word for each in command for word in (each.split("=", 1) if each.startswith("--") else [each])]
    return words[words.index(name) + 1]


def docker_command() -> list[str]:
    command = json.loads(directive("CMD"))
    assert isinstance(command, list)
    return command


def is_accepted(command: list[str]) -> bool:
    """Return whether the command line accepts it; click raises if not."""
    assert Path(command[0]).name == "txgearman"
    main, _ = parse_command(*command[1:])
    return callable(main)


def test_page_shows_each_file() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    assert set(re.findall(r"literalinclude\} \.\./examples/deploy/(\S+)", page)) == set(FILES)


@pytest.mark.parametrize("name", UNITS)
def test_unit_has_valid_command_and_is_not_restarted_after_usage_error(name: str) -> None:
    assert is_accepted(shlex.split(setting(name, "ExecStart")))
    assert setting(name, "Restart") == "on-failure"
    assert setting(name, "RestartPreventExitStatus") == str(int(ExitCode.USAGE))


@pytest.mark.parametrize("name", WORKER_UNITS)
def test_unit_of_worker_has_time_to_stop(name: str) -> None:
    command = shlex.split(setting(name, "ExecStart"))
    assert seconds(option(command, "--drain")) + 5 < seconds(setting(name, "TimeoutStopSec"))
    assert (setting(name, "Type"), setting(name, "KillMode")) == ("notify", "mixed")


@pytest.mark.process("systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_unit(name: str, tmp_path: Path) -> None:
    program = shlex.split(setting(name, "ExecStart"))[0]
    unit = tmp_path / name
    unit.write_text(FILES[name].replace(program, shutil.which("true") or "/bin/true"))
    verified = subprocess.run(
        [require_program("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_image_has_what_its_command_needs() -> None:
    command = docker_command()
    assert is_accepted(command)
    assert directive("RUN") == "pip install --no-cache-dir 'txgearman[cli,metrics]'"
    assert directive("COPY") == "workers.py ."
    assert option(command, "--app") == "workers:make_worker"
    assert option(command, "--http") == f"0.0.0.0:{directive('EXPOSE')}"


@pytest.mark.process("yaml")
def test_services_of_compose_file() -> None:
    services = load("compose.yaml")["services"]
    worker = services["worker"]
    assert (worker["build"], worker["init"], worker["depends_on"]) == (".", True, ["gearmand"])
    assert worker["environment"] == {"GEARMAN_SERVERS": "gearmand:4730"}
    assert seconds(option(docker_command(), "--drain")) + 5 < seconds(worker["stop_grace_period"])
    assert list(services) == ["gearmand", "worker"]


@pytest.mark.process("yaml")
def test_pods_of_manifest() -> None:
    manifest = load("kubernetes.yaml")
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert (manifest["apiVersion"], manifest["kind"]) == ("apps/v1", "Deployment")
    assert manifest["spec"]["selector"]["matchLabels"] == labels
    (container,) = pod()["containers"]
    assert is_accepted(container["command"])
    assert seconds(option(container["command"], "--drain")) + 5 < pod()["terminationGracePeriodSeconds"]
    (port,) = container["ports"]
    assert option(container["command"], "--http") == f"0.0.0.0:{port['containerPort']}"
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert probes == {
        "livenessProbe": {"path": "/healthz", "port": port["name"]},
        "readinessProbe": {"path": "/readyz", "port": port["name"]},
    }


# The worker, as its container and its unit run it.


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PROCESS_TIMEOUT)
        yield manager


def get(port: int, path: str) -> str:
    with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=PROCESS_TIMEOUT) as page:
        text: str = page.read().decode()
    return text


@pytest.mark.process("gearmand", "yaml")
def test_container_runs_jobs_and_stops(gearmand: Gearmand, manager: socket.socket) -> None:
    """With the check of the compose file. It also notifies systemd, as its unit wants."""
    port = free_port()
    command = [word.replace("0.0.0.0:8080", f"127.0.0.1:{port}") for word in docker_command()[1:]]
    environment = {"GEARMAN_SERVERS": gearmand.address, "NOTIFY_SOCKET": manager.getsockname()}
    with start_process(*command, cwd=DEPLOY, environment=environment) as worker:
        while not manager.recv(4096).startswith(b"READY=1\n"):
            pass
        submitted = run_process("submit", "-s", gearmand.address, "upper", "hello")
        assert (submitted.code, submitted.out) == (0, b"HELLO")
        assert get(port, "readyz") == "ok\n"
        assert 'txgearman_jobs_total{function="upper",outcome="done"} 1.0\n' in get(port, "metrics")
        check = load("compose.yaml")["services"]["worker"]["healthcheck"]["test"]
        assert check[:3] == ["CMD", "python", "-c"]
        exec(check[3].replace("8080", str(port)), {})  # it raises unless the answer is 200
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=PROCESS_TIMEOUT)
        assert worker.returncode == os.EX_OK
