"""A job server in memory that forgets jobs without notice, as some servers do (H1 to H3, H5, H9)."""

from __future__ import annotations

from txgearman.testing import MemoryJobServer


def forget_queued_jobs(server: MemoryJobServer) -> None:
    """Remove all queued jobs. Their handles are not used again."""
    jobs = server._core.jobs
    for job in [job for job in jobs if job.ability is None]:
        job.function.queues = tuple(type(queue)() for queue in job.function.queues)
        jobs._forget(job)
