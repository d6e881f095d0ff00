"""``python -m metalora_core``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from .commands.cli import main

        main()
    except KeyboardInterrupt:  # while the program was still loading
        sys.stderr.write("error: Interrupted before any work started.\n")
        sys.exit(130)
