"""The ``txgearman`` command.

`main` declares the command line with the modules of `commands`, and imports only what that needs. The other modules
implement the commands, as coroutine functions that take a `Terminal`. No other package of txgearman imports this one.
"""
