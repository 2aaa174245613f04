"""gear's worker, which does so many jobs by an empty function. Its Python needs gear, and not this library.

python -m benchmarks.gear_worker --port PORT --jobs 20000
"""

from __future__ import annotations

import gear

from .common import Stopwatch, arguments


def main() -> None:
    options = arguments()
    worker = gear.Worker("bench")
    worker.addServer("127.0.0.1", options.port[0])
    worker.waitForServer()
    watch = Stopwatch()
    watch.start()
    worker.registerFunction("echo")
    for _ in range(options.jobs):
        worker.getJob().sendWorkComplete()
    watch.stop()
    watch.report(options.jobs)
    worker.shutdown()


if __name__ == "__main__":
    main()
