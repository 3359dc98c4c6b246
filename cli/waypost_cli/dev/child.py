"""A child process of `waypost dev`: started, watched, started again when it dies, stopped with it."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)  # s, between starts of what keeps dying
_HEALTHY_AFTER = 30.0  # s of life after which the count of deaths starts anew
_PR_SET_PDEATHSIG = 1


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


def _die_with_parent(parent: int) -> Callable[[], None]:
    """For the child, before its exec. Linux: the kernel ends it when the parent is killed, however that comes.

    Elsewhere the data folder's lock tells of what was left behind.
    """

    def ask() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # killed before the kernel was asked
                os._exit(1)

    return ask


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
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Starts it, and a watch that starts it again."""
        await self._spawn()
        self._watch = asyncio.create_task(self._keep())

    async def _spawn(self) -> None:
        with self.log_file.open("ab") as out:
            # asyncio's own processes: to wait for one takes no thread of the pool, which is as small as the machine
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=self._pass_fds,
                preexec_fn=_die_with_parent(os.getpid()),
            )

    async def _keep(self) -> None:
        deaths = 0
        while True:
            process, born = self._process, time.monotonic()
            assert process is not None  # noqa: S101 - set by _spawn
            status = await process.wait()
            if self._stopping:
                return
            deaths = 1 if time.monotonic() - born > _HEALTHY_AFTER else deaths + 1
            self.restarts += 1
            pause = _BACKOFF[min(deaths, len(_BACKOFF)) - 1]
            self._say(
                f"{self.name} ended ({_status(status)}); starting it again in {pause:g} s. Its log: {self.log_file}"
            )
            await asyncio.sleep(pause)
            await self._spawn()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after the grace period."""
        self._stopping = True
        if self._watch is not None and not self.alive():
            self._watch.cancel()  # it may be about to start it again
            await asyncio.gather(self._watch, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            self._signal(process, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), self._grace)
            except TimeoutError:
                self._say(f"{self.name} did not end in {self._grace:g} s; killing it")
                self._signal(process, signal.SIGKILL)
                await process.wait()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    @staticmethod
    def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended in between
            process.send_signal(number)

    def tail(self, lines: int = 12) -> str:
        """The end of its log, for a start that fails."""
        try:
            text = self.log_file.read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
