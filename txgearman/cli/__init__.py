"""The ``txgearman`` command.

`main` declares what there is to say on the command line, and imports no more than that needs; what a command does
is in the other modules, as coroutines that take a `Terminal`. Nothing else in txgearman imports this.
"""
