"""Exclusive locks on open files: `flock`, or a lock on the first byte where Python has no fcntl (Windows).

Both belong to the handle: they also hold between threads, the system drops them with their owner, and no other handle that
closes drops them (a POSIX byte-range lock would go as soon as the process closes any handle of that file).
"""

from __future__ import annotations

import time

try:
    import fcntl
except ModuleNotFoundError:
    import msvcrt

    POLL = 0.05  # seconds between tries; msvcrt's own waiting gives up after ten

    def lock(handle: int, *, wait: bool) -> bool:
        """Whether the handle has its file's lock now; False only where it does not wait for another that has it."""
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            except PermissionError:
                if not wait:
                    return False
                time.sleep(POLL)
            else:
                return True

    def unlock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
else:

    def lock(handle: int, *, wait: bool) -> bool:
        """Whether the handle has its file's lock now; False only where it does not wait for another that has it."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)
