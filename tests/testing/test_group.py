"""Several job servers on one clock: their names, and what is theirs together."""

from __future__ import annotations

import gc
import sys
from typing import Any
from weakref import ref

import pytest
from twisted.internet import reactor as global_reactor

from txgearman import JobHandle
from txgearman.testing import MemoryJobServer

reactor: Any = global_reactor


def test_servers_of_a_clock_are_numbered() -> None:
    first = MemoryJobServer()
    others = [MemoryJobServer(first.clock, name=name) for name in (None, "spare", "memory:4", None)]
    assert [server.name for server in (first, *others)] == ["memory:1", "memory:2", "spare", "memory:4", "memory:3"]
    assert MemoryJobServer(first.clock).name == "memory:5"
    assert MemoryJobServer().name == "memory:1"
    assert repr(others[1].endpoint()) == "<MemoryEndpoint to spare>"


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("name", "error"), [(b"x", TypeError), ("", ValueError), ("a b", ValueError), ("memory:1", ValueError)]
)
def test_invalid_name_is_refused(name: Any, error: type[Exception]) -> None:
    first = MemoryJobServer()
    with pytest.raises(error, match=r"^name must be .*, not "):
        MemoryJobServer(first.clock, name=name)
    assert MemoryJobServer(first.clock).name == "memory:2"


async def test_name_on_a_reactor_is_free_once_its_server_is_closed() -> None:
    """Other tests have servers on the same reactor."""
    names = []
    for _ in range(2):
        first, second = MemoryJobServer(reactor), MemoryJobServer(reactor)
        names.append({first.name, second.name})
        for server in (first, second, second):
            await server.close()
    assert names[0] == names[1]
    assert len(names[0]) == 2


def test_handle_of_one_server_is_refused_by_client_of_another() -> None:
    first = MemoryJobServer()
    second = MemoryJobServer(first.clock)
    handle = first.result_of(first.client().add_task_bg("mail"))
    assert handle == JobHandle("memory:1", b"H:memory:1")
    with pytest.raises(ValueError, match=r"^server must be one of memory:2, not 'memory:1'$"):
        second.client().get_status(handle)


def test_clients_with_servers_in_another_order_choose_alike() -> None:
    first = MemoryJobServer()
    second = MemoryJobServer(first.clock)
    clients = [first.client(second), second.client(first)]
    for unique in range(30):
        handles = [first.result_of(client.add_task_bg("mail", unique=b"%d" % unique)) for client in clients]
        assert handles[0] == handles[1]


def test_closed_server_is_freed_without_a_collection() -> None:
    server = MemoryJobServer()
    server.command("status")
    server.close()
    reference = ref(server.clock)
    del server
    assert reference() is None


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector has no three generations")
def test_services_of_a_test_are_collected_at_the_start_of_the_next_one() -> None:
    """While they are young, which costs nothing; but not where the collector is switched off."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        server = MemoryJobServer()
        reference = ref(server.client())
        server.close()
        del server
        MemoryJobServer().close()
        assert reference() is not None
        gc.enable()
        MemoryJobServer().close()
        assert reference() is None
    finally:
        gc.enable() if was_enabled else gc.disable()
