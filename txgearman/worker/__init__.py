"""The worker: API, policy and wire.

A job passes these modules, from the packet that assigns it to the one that has its result:

============================  ===========================================================================
``protocol._assigned_uniq``   decodes the answer to a request for a job
``scheduler.job_assigned``    decides what becomes of the job
``groups.record_job``         its server may have more: the state of the connection says so
``groups.add``                and the connection waits for a slot again
``job.Job``                   is what the function gets
``execution.run_job``         starts the function, and takes its result or awaits its Deferred
``functions.start``           calls the function
``job.ended``                 says whether the function has ended the job itself
``job.complete``              ends the job
``protocol.work_complete``    writes WORK_COMPLETE
============================  ===========================================================================

Once all jobs that were read together have been handled, the next ones are requested together:

================================  =======================================================================
``protocol._answers_received``    has handled the last answer
``scheduler.answers_received``    frees the slots of jobs that have ended, and allots the free ones
``slots.release``                 frees them
``groups.pop``                    chooses the connection that was asked least recently
``slots.free_for``                says how many slots it may get
``slots.acquire``                 holds them for the requests
``protocol.grab``                 writes the requests
================================  =======================================================================
"""
