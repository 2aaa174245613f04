"""Calls from threads, through the bridge of the examples, on a real gearmand; and what a fork does to them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from .daemons import Gearmand
from .processes import DEADLINE, EXAMPLES, ROOT, environment, example_worker, output, run_alone

pytestmark = pytest.mark.process

PATH = f"{ROOT}:{EXAMPLES}"

CLIENT = """
import atexit, os, sys, threading

said = threading.Event()

def after_bridge():
    said.wait(10)  # else the daemon may be ended before it has written
    print(outcome(lambda: call(client.add_task, "reverse", b"late")))

if "after" in sys.argv:
    atexit.register(after_bridge)  # before that of the bridge, so that it runs after it

from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from bridge import call, reactor, submit
from txgearman import GearmanClient

client = GearmanClient([sys.argv[1]], timeout=float(sys.argv[2]))
reactor.addSystemEventTrigger("before", "shutdown", client.stopService)

def outcome(function):
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def run_with_client(gearmand: Gearmand, script: str, *arguments: str, timeout: float = 10.0) -> list[str]:
    """Return the lines that a script prints which has a bridge and a client."""
    printed = run_alone(
        "-W", "error", "-c", CLIENT + script, gearmand.address, str(timeout), *arguments, PYTHONPATH=PATH
    )
    return output(printed).splitlines()


def test_call_that_has_not_begun_can_be_cancelled_and_reactor_can_not_wait_for_itself(gearmand: Gearmand) -> None:
    script = """
begun, go_on = threading.Event(), threading.Event()

def wait():
    begun.set()
    go_on.wait()
    return outcome(lambda: call(client.add_task, "reverse"))

first = submit(wait)
second = submit(client.add_task, "nobody_does_this")
begun.wait()
print(second.cancel(), first.cancel(), second.cancelled())
go_on.set()
print(first.result())
print(client.waiting, client.servers[0].in_flight)
"""
    refusal = "RuntimeError: the reactor's thread must not wait for itself: use the Deferred"
    assert run_with_client(gearmand, script) == ["True False True", refusal, "0 0"]


def test_program_ends_when_its_threads_have_ended_and_then_no_call_is_taken(gearmand: Gearmand) -> None:
    """The main thread ends first. A thread that is not a daemon gets its result; one that is, gets `ClientStopped`."""
    script = """
created = threading.Event()

def forever():
    ended = outcome(lambda: call(client.add_task, "nobody_does_this", on_created=lambda task: created.set()))
    os.write(1, f"{ended}\\n".encode())
    said.set()

def late():
    threading.main_thread().join()
    print(call(client.add_task, "reverse", b"abc"), flush=True)

threading.Thread(target=forever, daemon=True).start()
created.wait()
threading.Thread(target=late).start()
"""
    with example_worker(gearmand.address):
        first, *others = run_with_client(gearmand, script, "after", timeout=60.0)
    refusal = "RuntimeError: the reactor has ended, or runs in the process that this one was forked from"
    assert (first, sorted(others)) == ("b'cba'", ["ClientStopped: the client was stopped", refusal])


FORKS = """
def in_child(function):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        ended = []
        thread = threading.Thread(target=lambda: ended.append(outcome(function)), daemon=True)
        thread.start()
        thread.join(1.5)
        os.write(writing, str(ended[0] if ended else "it waits").encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        print(answer.read())
    os.waitpid(child, 0)

def by_bridge():
    return call(client.add_task, "reverse", b"abc")

in_child(by_bridge)
print(by_bridge())
in_child(by_bridge)
in_child(lambda: blockingCallFromThread(reactor, client.add_task, "reverse", b"abc"))
print(by_bridge())
"""


def test_reactor_that_was_run_before_fork_does_not_run_in_child(gearmand: Gearmand) -> None:
    """Twisted's own call waits there for ever, with a timeout of 0.5 s; that of the bridge raises."""
    with example_worker(gearmand.address):
        printed = run_alone(
            "-c", CLIENT + FORKS, gearmand.address, "0.5", PYTHONPATH=PATH
        )  # Python 3.12 warns of such forks
    assert printed.returncode == 0, printed.stderr
    refusal = "RuntimeError: the reactor has ended, or runs in the process that this one was forked from"
    assert printed.stdout.splitlines() == ["b'cba'", "b'cba'", refusal, "it waits", "b'cba'"]


# Through kills of the server.

THREADS = 12
KILLS = 10

MANY_CALLS = """
import json, time
from collections import Counter

from txgearman import NoServersAvailable, TaskLost, TaskTimedOut

end, outcomes = threading.Event(), Counter()

def work(seed):
    while not end.is_set():
        text = os.urandom(35_000)
        try:
            ended = "result" if call(client.add_task, "reverse", text) == text[::-1] else "another result"
        except (NoServersAvailable, TaskLost, TaskTimedOut) as error:
            ended = type(error).__name__
            time.sleep(0.01)
        counts[seed][ended] += 1

counts = [Counter() for _ in range(int(sys.argv[3]))]
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(len(counts))]
for thread in threads:
    thread.start()
sys.stdin.read()
end.set()
for thread in threads:
    thread.join()
print(json.dumps([sum(counts, Counter()), min(each.total() for each in counts), client.waiting]))
"""


@pytest.mark.soak
def test_threads_get_one_outcome_of_each_call_through_hard_kills_of_server(gearmand: Gearmand) -> None:
    """No thread waits longer than a task's timeout, and none gets what is another's."""
    command = [sys.executable, "-c", CLIENT + MANY_CALLS, gearmand.address, "5.0", str(THREADS)]
    with (
        example_worker(gearmand.address, deadline=4 * DEADLINE),
        subprocess.Popen(
            command, env=environment(PYTHONPATH=PATH), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as program,
    ):
        for _ in range(KILLS):
            time.sleep(2.0)
            gearmand.stop()
            gearmand.start()
        time.sleep(3.0)
        printed, _ = program.communicate("", timeout=DEADLINE)
    outcomes, least, waiting = json.loads(printed)
    assert (program.returncode, waiting) == (0, 0)
    assert "another result" not in outcomes
    assert outcomes["TaskLost"] >= KILLS
    assert outcomes["result"] > 100 * THREADS
    assert least > 100
