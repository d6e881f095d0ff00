"""``python -m metalora_core``."""

from __future__ import annotations

import sys

from .checks import optional
from .errors import MissingDependency

if __name__ == "__main__":
    try:
        optional("typer", "The command line")
        from .commands.cli import main

        main()
    except MissingDependency as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:  # while the program was still loading
        sys.stderr.write("error: Interrupted before any work started.\n")
        sys.exit(130)
