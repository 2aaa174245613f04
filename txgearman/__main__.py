"""``python -m txgearman`` and the ``txgearman`` command. Reports a missing extra ``cli`` before click is needed."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final, NoReturn

__all__ = ["main", "open_closed_descriptors"]

OUTPUT_ERRORS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a write raises if a disk is full or broken, or a terminal is lost."""


def main() -> None:
    """Run the ``txgearman`` command."""
    open_closed_descriptors()
    try:
        from .cli.main import cli
    except ImportError as error:
        if error.name != "click":
            raise
        print("txgearman: this command needs the extra 'cli': python -m pip install 'txgearman[cli]'", file=sys.stderr)
        sys.exit(2)
    try:
        cli(prog_name="txgearman")
    except OSError as error:
        if error.errno not in OUTPUT_ERRORS:
            raise
        _exit_without_output(error)


def open_closed_descriptors() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed on the null device.

    Else the next file or socket gets such a number, and what is printed is written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _exit_without_output(error: OSError) -> NoReturn:
    """Exit because what click prints by itself, such as a help, can't be written."""
    from .cli.exit_codes import ExitCode

    print(f"txgearman: can't write the output: {error.strerror}", file=sys.stderr)
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 1)  # Python writes what is left of it on exit
    os.close(null_device)
    sys.exit(ExitCode.INPUT_OUTPUT)


if __name__ == "__main__":
    main()
