"""``python -m txgearman`` and the ``txgearman`` command. Reports a missing extra ``cli`` before click is needed."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the ``txgearman`` command."""
    try:
        from .cli.main import cli
    except ImportError as error:
        if error.name != "click":
            raise
        print("txgearman: this command needs the extra 'cli': python -m pip install 'txgearman[cli]'", file=sys.stderr)
        sys.exit(2)
    cli(prog_name="txgearman")


if __name__ == "__main__":
    main()
