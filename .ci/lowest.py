"""Write the requirements of the tests with the lowest versions that setup.cfg names: ``lowest.py FILE``."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path


def main(file: str) -> None:
    setup = configparser.ConfigParser()
    setup.read("setup.cfg", "utf-8")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    requirements = [line for line in lines.splitlines() if line and not line.startswith("#")]
    Path(file).write_text("\n".join(requirements).replace(">=", "==") + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
