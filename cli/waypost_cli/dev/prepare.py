"""What must be so before anything starts: a folder of our own, free ports, passwords, certificates."""

import datetime as dt
import errno
import fcntl
import json
import os
import re
import secrets
import socket
import sys
from pathlib import Path

from waypost_cli.exits import Exit, fail
from waypost_queue import natsconf
from waypost_queue.permissions import permissions

from . import tls
from .options import LOOPBACK, SERVICES, DevOptions, DevState, address, reach

_LOCK = "lock"
_MAX_STDIN = 16 << 20  # octets
_LOG_LEVELS = ("debug", "info", "warning", "error")


def lock(data: Path) -> int:
    """Takes the folder for this process and its nats-server; returns the lock's descriptor, which is handed to it.

    The lock is held as long as either lives: two servers on one store would destroy it.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        fail(Exit.UNAVAILABLE, f"--data {data}: {error.strerror}; give a folder that can be written")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        fail(
            Exit.UNAVAILABLE,
            f"--data {data} is in use by another waypost dev (pid {holder}); stop it, or give another --data",
        )
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def check_flags(options: DevOptions) -> None:
    """Ends with one line on a flag that a service would refuse at its start."""
    for text in options.secrets:
        if not re.fullmatch(r"[^/=]+/[^/=]+=[^=]+=@.+", text):
            fail(Exit.USAGE, f"--secret {text}: write NS/NAME=KEY=@FILE, such as shop/relay=password=@relay.txt")
        file = Path(text.partition("=@")[2])
        if not file.is_file():
            fail(Exit.USAGE, f"--secret {text}: there is no file {file}")
    for text in options.services:
        if not (re.fullmatch(r"[^/=]+/[^/=]+=.+", text) and _is_address(text.partition("=")[2])):
            fail(Exit.USAGE, f"--service {text}: write NS/NAME=HOST:PORT, such as shop/desk=127.0.0.1:8080")
    if options.dns and not _is_address(options.dns):
        fail(Exit.USAGE, f"--dns {options.dns}: write HOST:PORT, such as 127.0.0.1:5353")
    if options.log_level not in _LOG_LEVELS:
        fail(Exit.USAGE, f"--log-level {options.log_level}: one of {', '.join(_LOG_LEVELS)}")


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def check_ports(options: DevOptions) -> None:
    """Ends with one line that names the port and the flag when one can't be had."""
    wanted = {
        "--mx-port": options.mx_port,
        "--submission-port": options.submission_port,
        "--submissions-port": options.submissions_port,
        "--http-port": options.http_port,
    }
    for flag, port in wanted.items():
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except PermissionError:
                fail(Exit.UNAVAILABLE, f"port {port} needs root; give another with {flag}")
            except (OSError, OverflowError) as error:
                reason = "is in use" if getattr(error, "errno", 0) == errno.EADDRINUSE else f"can't be had: {error}"
                fail(
                    Exit.UNAVAILABLE,
                    f"{address(options.host, port)} {reason}; stop what listens there, or give another {flag}",
                )


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def passwords(path: Path) -> dict[str, str]:
    """NATS passwords, one a service, made once."""
    if path.exists():
        known: dict[str, str] = json.loads(path.read_text())
    else:
        known = {}
    missing = [name for name in (*SERVICES, "system") if name not in known]
    if missing:
        known |= {name: secrets.token_urlsafe(24) for name in missing}
        tls.write_private(path, json.dumps(known).encode())
    return known


def api_token(path: Path) -> str:
    """The API's token for who reaches it from another machine, made once."""
    if not path.exists():
        tls.write_private(path, secrets.token_urlsafe(32).encode())
    return path.read_text().strip()


def manifests_folder(options: DevOptions) -> str:
    """The folder to watch; standard input is stored first, so that a service that starts again reads it too."""
    if options.manifests != "-":
        if not Path(options.manifests).exists():
            fail(Exit.USAGE, f"--manifests {options.manifests}: no such file or folder")
        return options.manifests
    folder = options.data / "stdin"
    tls.write_private(folder / "manifests.yaml", sys.stdin.buffer.read(_MAX_STDIN))
    return str(folder)


def state(options: DevOptions) -> DevState:
    """Chooses ports, and makes passwords, certificates and nats.conf."""
    data = options.data
    keys = data / "keys"
    keys.mkdir(exist_ok=True, mode=0o700)
    (data / "logs").mkdir(exist_ok=True)
    ca, certificate, key = tls.ensure(data / "tls", reach(options.host), dt.datetime.now(dt.UTC))
    nats_port, ingress, *rest = free_ports(2 + len(SERVICES) + options.workers)
    made = DevState(
        nats_port=nats_port,
        passwords=passwords(keys / "nats.json"),
        health_ports=dict(zip((name for name in SERVICES if name != "ingress"), rest, strict=False))
        | {"ingress": ingress},
        ca=ca,
        certificate=certificate,
        key=key,
        manifests=manifests_folder(options),
        api_token="" if options.host in LOOPBACK else api_token(keys / "api-token"),
    )
    users = [
        natsconf.User(name=name, password=made.passwords[name], permissions=permissions(name, max(options.workers, 1)))
        for name in SERVICES
    ]
    text = natsconf.render(
        store_dir=str(data / "nats"),
        port=made.nats_port,
        users=users,
        system_user="system",
        system_password=made.passwords["system"],
        max_file_store=10 << 30,
    )
    tls.write_private(data / "nats.conf", text.encode())
    return made
