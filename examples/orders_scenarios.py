"""What happens to the shop, whichever server it uses: one in memory, on a clock or on a port, or gearmand."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from orders import Orders, Shop, add_functions
from twisted.internet.defer import ensureDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest
from txgearman import GearmanClient
from txgearman.testing import AnyJobServer


def client_of(server: AnyJobServer, **options: Any) -> GearmanClient:
    return server.client(server_timeout=0.5, **options)


async def express_orders_go_first(server: AnyJobServer) -> None:
    shop = Shop(client_of(server))
    assert [await shop.order(1), await shop.order(2, express=True)] == [202, 202]
    first, second = await server.next_job("pack"), await server.next_job("pack")
    assert (first.workload, second.workload) == (b"2", b"1")
    first.complete()
    second.complete()


async def orders_come_over_the_web(server: AnyJobServer) -> None:
    request: Any = DummyRequest([b""])
    request.addArg(b"number", b"7")
    request.addArg(b"express", b"1")
    assert Orders(Shop(client_of(server))).render_POST(request) == NOT_DONE_YET
    await request.notifyFinish()
    assert request.responseCode == 202
    assert server.command("prioritystatus") == "pack\t1\t0\t0\t0\n.\n"  # one of priority HIGH
    job = await server.next_job("pack")
    assert (job.workload, job.unique) == (b"7", b"order-7")
    job.complete()


async def customer_disconnects_before_the_answer(server: AnyJobServer) -> None:
    shop = Shop(client_of(server))
    request: Any = DummyRequest([b""])
    request.addArg(b"number", b"7")
    Orders(shop).render_POST(request)
    request.processingFailed(Failure(ConnectionDone()))
    assert await shop.order(8) == 202
    assert (request.responseCode, request.finished) == (None, 0)
    assert "order-8" in server.command("show unique jobs")


async def order_that_is_sent_twice_is_packed_once(server: AnyJobServer) -> None:
    shop = Shop(client_of(server))
    assert [await shop.order(7), await shop.order(7)] == [202, 202]
    assert server.command("show unique jobs") == "order-7\n.\n"


async def worker_packs_orders(server: AnyJobServer) -> None:
    packed: list[int] = []
    worker = server.worker()
    add_functions(worker, packed)
    shop = Shop(client_of(server))
    for number in range(3):
        await shop.order(number)
    assert await shop.price(["apple", "pear"]) == 75
    assert packed == [0, 1, 2]
    assert await shop.price(["moon"]) is None


async def server_is_down_at_the_start(server: AnyJobServer) -> None:
    with server.go_down(lose_jobs=True):
        shop = Shop(client_of(server))
        assert await shop.order(1) == 503
    await deferLater(server.clock, 2.5)  # the client has connected again
    assert await shop.order(1) == 202
    (await server.next_job("pack")).complete()


async def price_survives_a_restart(server: AnyJobServer) -> None:
    shop = Shop(client_of(server, server_wait=5))  # the client connects again within two seconds
    price = ensureDeferred(shop.price(["apple"]))
    await server.next_job("price")
    with server.go_down(lose_jobs=True):
        pass
    (await server.next_job("price")).complete(b"30")
    assert await price == 30


async def full_queue_is_too_many_requests(server: AnyJobServer) -> None:
    shop = Shop(client_of(server))
    await shop.order(1)
    server.command("maxqueue pack 1")
    assert await shop.order(2) == 429
    (await server.next_job("pack")).complete()


async def dropped_function_is_no_price(server: AnyJobServer) -> None:
    """An administrator drops the queue, and gearmand notifies nobody (H4)."""
    shop = Shop(client_of(server), patience=1)
    price = ensureDeferred(shop.price(["apple"]))
    while not server.command("status").startswith("price\t1\t"):
        await deferLater(server.clock, 0.01)
    server.command("drop function price")
    assert await price is None


async def silent_server_is_unavailable(server: AnyJobServer) -> None:
    shop = Shop(client_of(server))
    assert await shop.order(1) == 202
    with server.fall_silent():
        assert await shop.order(2) == 503
    assert server.command("status").startswith("pack\t")  # with two orders, if the server has read the second one
    job = await server.next_job("pack")
    assert job.workload == b"1"
    job.complete()


async def invoices_that_fail_are_named(server: AnyJobServer) -> None:
    shop = Shop(client_of(server))
    unsent = ensureDeferred(shop.send_invoices([1, 2, 3]))
    for _ in range(4):  # one of them twice
        job = await server.next_job("invoice")
        if job.workload == b"2":
            job.fail()
        else:
            job.complete()
    assert await unsent == [2]


Scenario: TypeAlias = Callable[[AnyJobServer], Coroutine[Any, Any, None]]

SCENARIOS: list[Scenario] = [
    express_orders_go_first,
    orders_come_over_the_web,
    customer_disconnects_before_the_answer,
    order_that_is_sent_twice_is_packed_once,
    worker_packs_orders,
    server_is_down_at_the_start,
    price_survives_a_restart,
    full_queue_is_too_many_requests,
    dropped_function_is_no_price,
    silent_server_is_unavailable,
    invoices_that_fail_are_named,
]
