"""A child process of `waypost dev`: started, watched, started again when it dies, stopped with it."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)  # s, between starts of what keeps dying
_HEALTHY_AFTER = 30.0  # s of life after which the count of deaths starts anew
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Linux: the kernel ends the child when the parent is killed. Elsewhere the data folder's lock tells of it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One process in a session of its own, so that Ctrl-C reaches only the parent, which stops all in order."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        log_file: Path,
        *,
        pass_fds: tuple[int, ...] = (),
        say: Callable[[str], None] = lambda _line: None,
        grace: float = 15.0,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.restarts = 0
        self._command = list(command)
        self._env = {**os.environ, **env}
        self._pass_fds = pass_fds
        self._say = say
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Starts it, and a watch that starts it again."""
        self._spawn()
        self._watch = asyncio.create_task(self._keep())

    def _spawn(self) -> None:
        with self.log_file.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=self._pass_fds,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - runs before any thread of ours exists in the child
            )

    async def _keep(self) -> None:
        deaths = 0
        while True:
            process, born = self._process, time.monotonic()
            assert process is not None  # noqa: S101 - set by _spawn
            status = await asyncio.to_thread(process.wait)
            if self._stopping:
                return
            deaths = 1 if time.monotonic() - born > _HEALTHY_AFTER else deaths + 1
            self.restarts += 1
            pause = _BACKOFF[min(deaths, len(_BACKOFF)) - 1]
            self._say(
                f"{self.name} ended ({_status(status)}); starting it again in {pause:g} s. Its log: {self.log_file}"
            )
            await asyncio.sleep(pause)
            self._spawn()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after the grace period."""
        self._stopping = True
        if self._watch is not None and (self._process is None or self._process.poll() is not None):
            self._watch.cancel()  # it may be about to start it again
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, self._grace)
            except subprocess.TimeoutExpired:
                self._say(f"{self.name} did not end in {self._grace:g} s; killing it")
                process.kill()
                await asyncio.to_thread(process.wait)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def tail(self, lines: int = 12) -> str:
        """The end of its log, for a start that fails."""
        try:
            text = self.log_file.read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
