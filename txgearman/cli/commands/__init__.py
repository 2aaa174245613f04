"""Command lines: the arguments, options and help of each command, in a module of the same name as its code in `cli`.

They import only what a command line needs. A command's code is imported when the command is run, so that ``--help`` and
completion are fast.
"""
