"""`python -m wavalign_cli`, and the command `wavalign`."""

import signal
import sys

from wavalign.leaving import NativeThreads, leave


def main() -> int:
    """Run the command line; Ctrl-C while its modules are imported ends it as at any other time."""
    try:
        # Here, so that a Ctrl-C during the import is met.
        from .app import main as command
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    code = command()
    if NativeThreads.started:
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
