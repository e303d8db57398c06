"""The command `ostiary`, also as `python -m ostiary`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the program's arguments. An interrupt while the command line itself is still being loaded is a sentence, too."""
    try:
        from ostiary.cli import main as answer

        return answer()
    except KeyboardInterrupt:
        sys.stderr.write("ostiary: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
