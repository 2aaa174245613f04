"""aiogear's worker, which does so many jobs by an empty function. Its Python needs aiogear, and not this library.

python -m benchmarks.aiogear_worker --port PORT --jobs 20000
"""

from __future__ import annotations

import asyncio

from aiogear import Worker

from .common import Stopwatch, arguments


async def main() -> None:
    options = arguments()
    watch = Stopwatch()
    finished = asyncio.Event()
    left = options.jobs

    def echo(job: object) -> str:
        nonlocal left
        left -= 1
        if not left:
            finished.set()
        return ""

    loop = asyncio.get_running_loop()
    watch.start()
    _, worker = await loop.create_connection(lambda: Worker(echo, loop=loop), "127.0.0.1", options.port[0])
    await finished.wait()
    watch.stop()
    watch.report(options.jobs)
    worker.transport.close()


if __name__ == "__main__":
    asyncio.run(main())
