"""A shop: a web service that queues orders, the worker that has them packed, and the invoices of the night."""

import json
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from txgearman import GearmanClient, GearmanError, GearmanWorker, Job, JobFailed, Priority, TaskRejected

log = Logger()


class Shop:
    """What the shop asks of its job servers."""

    def __init__(self, client: GearmanClient, patience: float = 10) -> None:
        """
        :param patience: seconds that a customer waits for a price.
        """
        self._client = client
        self._patience = patience

    async def order(self, number: int, *, express: bool = False) -> int:
        """Queue an order, and return the status of HTTP for it. An order that is sent twice is queued once."""
        priority = Priority.HIGH if express else Priority.NORMAL
        packing = self._client.add_task_bg("pack", b"%d" % number, unique=f"order-{number}", priority=priority)
        try:
            await packing
        except TaskRejected:
            return 429  # the queue is full
        except GearmanError as error:
            log.info("order {number} was not queued: {error}", number=number, error=error)
            return 503
        return 202

    async def price(self, goods: list[str]) -> int | None:
        """Return what goods cost, in cents; None if nobody can say so in time."""
        try:
            cents = await self._client.add_task("price", json.dumps(goods).encode(), retries=2, timeout=self._patience)
        except GearmanError as error:
            log.info("no price: {error}", error=error)
            return None
        return int(cents)

    async def send_invoices(self, numbers: Iterable[int]) -> list[int]:
        """Have the invoices of the night sent; return the numbers of those that were not."""
        numbers = list(numbers)
        sending = [self._client.add_task("invoice", b"%d" % number, retries=1, timeout=60) for number in numbers]
        unsent = []
        for number, invoice in zip(numbers, sending, strict=True):
            try:
                await invoice
            except GearmanError as error:
                log.info("invoice {number} was not sent: {error}", number=number, error=error)
                unsent.append(number)
        return unsent


class Orders(Resource):
    """``POST /?number=7&express=1`` queues an order."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self._shop = shop

    def render_POST(self, request: Request) -> int:  # noqa: N802  # Twisted's name
        arguments: Any = request.args
        ordered = ensureDeferred(self._shop.order(int(arguments[b"number"][0]), express=b"express" in arguments))
        request.notifyFinish().addErrback(lambda _: ordered.cancel())  # the browser has disconnected
        ordered.addCallbacks(self._answer, self._failed, (request,), errbackArgs=(request,))
        return NOT_DONE_YET

    def _answer(self, status: int, request: Request) -> None:
        request.setResponseCode(status)
        request.finish()

    def _failed(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError) is None:
            log.failure("an order failed", failure)
            self._answer(500, request)


PRICES = {"apple": 30, "pear": 45}


def price(job: Job) -> bytes:
    try:
        return b"%d" % sum(PRICES[name] for name in json.loads(job.workload))
    except KeyError as error:
        raise JobFailed(f"no price of {error}") from error


def add_functions(worker: GearmanWorker, packed: list[int]) -> None:
    """Have a worker do what the shop asks for. Packed orders are noted in a list."""
    worker.register_function("price", price)
    worker.register_function("pack", lambda job: packed.append(int(job.workload)))
