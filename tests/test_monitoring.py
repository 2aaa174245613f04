"""What is in ``examples/monitoring``, with a real Prometheus that scrapes real job servers."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from txgearman.packets import CAN_DO, GRAB_JOB, SUBMIT_JOB_BG

from .cli.harness import start_process
from .daemons import Gearmand, Prometheus, free_port
from .processes import EXAMPLES
from .programs import require_program

pytestmark = pytest.mark.process("prometheus", "promtool", "gearmand")

MONITORING = EXAMPLES / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))

INTERVAL = 2
"""Seconds between scrapes."""

DEADLINE = 60.0
"""Seconds that Prometheus may take to notice something."""


def promtool(*arguments: str) -> str:
    """Run promtool in the folder of the examples; return its output."""
    command = [require_program("promtool"), *arguments]
    result = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_settings_and_rules_are_valid() -> None:
    assert "5 rules found" in promtool("check", "config", "prometheus.yml")


def test_alerts_fire_when_they_should() -> None:
    """Each alert is fired by a scenario of the file."""
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    alerts = set(re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text("utf-8")))
    scenarios = (MONITORING / "alerts_test.yml").read_text("utf-8")
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", scenarios)) == alerts


# With a Prometheus.


class Monitored:
    """Two job servers, the exporter of both, and a Prometheus that scrapes it."""

    def __init__(self, first: Gearmand, second: Gearmand, prometheus: Prometheus) -> None:
        self.first = first
        self.second = second
        self._prometheus = prometheus

    def api(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of Prometheus."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        with urlopen(f"http://{self._prometheus.address}/api/v1/{path}{query}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success"
        return answer["data"]

    def is_ready(self) -> bool:
        """Return whether Prometheus answers: it accepts connections before."""
        try:
            return bool(self.api("status/buildinfo"))
        except HTTPError:
            return False

    def query(self, expression: str) -> list[Any]:
        """Return the result of an expression."""
        result: list[Any] = self.api("query", query=expression)["result"]
        return result

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with one result; None if it has none."""
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else None

    def values(self, selector: str, since: float) -> list[float]:
        """Return all values of a series that were scraped since a time."""
        (series,) = self.query(f"{selector}[1h]")
        return [float(value) for moment, value in series["values"] if moment >= since]

    def up(self, server: Gearmand) -> str:
        return f'gearman_up{{server="{server.address}"}}'


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        first, second = (stack.enter_context(Gearmand()) for _ in range(2))
        port = free_port()
        servers = ("-s", first.address, "-s", second.address)
        exporter = stack.enter_context(start_process("metrics", "--listen", str(port), *servers))
        assert exporter.stdout.readline() == b"http://127.0.0.1:%d/metrics\n" % port
        settings = (MONITORING / "prometheus.yml").read_text("utf-8")
        for before, after in (("15s", f"{INTERVAL}s"), ("10s", f"{INTERVAL}s"), (":9418", f":{port}")):
            assert before in settings
            settings = settings.replace(before, after)
        (folder / "prometheus.yml").write_text(settings)
        (folder / "alerts.yml").write_text((MONITORING / "alerts.yml").read_text("utf-8"))
        stack.enter_context(busy(first))
        prometheus = stack.enter_context(Prometheus(folder / "prometheus.yml"))
        monitored = Monitored(first, second, prometheus)
        wait_until(monitored.is_ready)
        wait_until(lambda: monitored.value(monitored.up(second)) == 1)
        yield monitored


def busy(server: Gearmand) -> socket.socket:
    """Give a server a function with jobs and no worker, and one with a job that a worker has."""
    connection = socket.create_connection((server.listen, server.port), 10)
    submits = [SUBMIT_JOB_BG.request(name, b"", b"") for name in (b"resize", b"resize", b"mail", b"mail")]
    connection.sendall(b"".join([*submits, CAN_DO.request(b"mail"), GRAB_JOB.request()]))
    wait_until(lambda: "mail\t2\t1\t1" in server.admin("status"))
    return connection


def test_series_with_one_of_two_servers_hung_and_stopped_and_back(monitored: Monitored) -> None:
    """No scrape is lost, and none of the other server's values."""
    second = monitored.up(monitored.second)
    since = time.time()
    for act, up in (
        (lambda: None, 1),
        (monitored.second.stall, 0),
        (lambda: monitored.second.signal(signal.SIGCONT), 1),
        (monitored.second.stop, 0),
        (monitored.second.start, 1),
    ):
        act()
        count = len(monitored.values(second, since)) if monitored.query(second) else 0
        wait_until(lambda: monitored.value(second) == up and len(monitored.values(second, since)) > count)  # noqa: B023  # it is called in this turn of the loop
    values = monitored.values(second, since)
    assert [value for value, _ in groupby(values)] == [1, 0, 1, 0, 1]
    scrapes = monitored.values('up{job="gearman"}', since)
    assert set(scrapes) == {1}
    assert monitored.values(monitored.up(monitored.first), since) == [1] * len(scrapes)
    waiting = f'gearman_jobs_waiting{{server="{monitored.first.address}",function="resize"}}'
    assert monitored.values(waiting, since) == [2] * len(scrapes)
    assert max(monitored.values("scrape_duration_seconds", since)) < INTERVAL


EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_of_dashboard_has_results(monitored: Monitored, expression: str) -> None:
    for variable in re.findall(r"\$\w+", expression):
        assert variable.removeprefix("$") in {each["name"] for each in DASHBOARD["templating"]["list"]}
    wait_until(lambda: monitored.query(re.sub(r"\$\w+", ".*", expression)))


@pytest.mark.parametrize(
    "definition", [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
)
def test_variable_of_dashboard_has_values(monitored: Monitored, definition: str) -> None:
    match = re.fullmatch(r"label_values\((\w+), (\w+)\)", definition)
    assert match
    assert all(match[2] in each["metric"] for each in monitored.query(match[1]))
    assert monitored.query(match[1])


def test_rules_are_evaluated_without_an_error(monitored: Monitored) -> None:
    def rules() -> list[Any]:
        return [rule for group in monitored.api("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [(rule["name"], rule["health"]) for rule in rules() if rule["health"] != "ok"] == []
    states: dict[str, str] = {}

    def job_is_seen() -> bool:
        states.update((rule["name"], rule["state"]) for rule in rules())
        return states["GearmanJobsWithoutWorker"] == "pending"

    wait_until(job_is_seen)
    assert states["GearmanQueueGrows"] == "inactive"
