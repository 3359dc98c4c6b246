"""What a test starts ends with the test's process, however that ends (a time-out ends it without its fixtures)."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


def end_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when the thread that made it ends."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
