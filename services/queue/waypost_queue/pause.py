"""Named points in settling and recovery at which a fault test stops or kills the process; nothing happens otherwise.

The order of those steps was found by killing, so the points are part of the code.
`WAYPOST_PAUSE=after_settle=exit:0.05` ends the process in one of twenty passes of that point as SIGKILL would, `=stop:`
stops it (SIGSTOP; whoever armed it sends SIGCONT).
"""

import os
import random
import signal
from collections.abc import Callable

hook: Callable[[str], None] | None = None
"""Called with the name of each point that is passed; tests set it."""


def reached(name: str) -> None:
    """The point `name` is passed."""
    if hook is not None:
        hook(name)


def armed_by(text: str) -> Callable[[str], None]:
    """The hook that `NAME=exit|stop:PROBABILITY` describes. Raises ValueError for anything else."""
    point, equals, rest = text.partition("=")
    how, colon, share = rest.partition(":")
    if not equals or not colon or how not in ("exit", "stop"):
        raise ValueError(f"WAYPOST_PAUSE={text!r} must look like after_settle=exit:0.05")
    probability = float(share)

    def act(name: str) -> None:
        if name == point and random.random() < probability:  # noqa: S311 - no secret depends on it
            if how == "exit":
                os._exit(128 + signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGSTOP)

    return act


if "WAYPOST_PAUSE" in os.environ:
    hook = armed_by(os.environ["WAYPOST_PAUSE"])
