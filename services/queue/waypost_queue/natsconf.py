"""The configuration of a nats-server that may hold mail: synced on every write, one user a service.

`waypost dev`, the tests and the chart render theirs here, so that all of them run with the same settings. The limits
for batches are above the server's default of 50 a stream, which counts for all pods together; short pings make a pod
that stopped (SIGSTOP, a lost node) free its pull requests soon.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from .permissions import Permissions

MAX_PAYLOAD: Final = 8 << 20  # octets
ACCOUNT: Final = "WAYPOST"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user of the mail account; `permissions` as `permissions.permissions` gives them."""

    name: str
    password: str
    permissions: Permissions


def render(
    *,
    store_dir: str,
    host: str = "127.0.0.1",
    port: int = 4222,
    users: Sequence[User] = (),
    system_user: str = "",
    system_password: str = "",
    max_file_store: int = 0,
    sync_always: bool = True,
    ports_dir: str = "",
    server_name: str = "waypost",
) -> str:
    """The text of nats-server.conf.

    Without `users` anyone who reaches the port may do anything: for tests, and for a laptop's loopback. The system user
    may ask for the durability setting and nothing else. `max_file_store` bounds the whole store (octets; 0 = the
    server's own choice); `ports_dir` is where the server writes which port it took when `port` is -1.
    """
    jetstream: dict[str, Any] = {
        "store_dir": store_dir,
        "limits": {"batch": {"max_inflight_per_stream": 500, "max_inflight_total": 4000}},
    }
    if sync_always:
        jetstream["sync_interval"] = "always"
    if max_file_store:
        jetstream["max_file_store"] = max_file_store
    conf: dict[str, Any] = {
        "server_name": server_name,
        "host": host,
        "port": port,
        "max_payload": MAX_PAYLOAD,
        "ping_interval": "10s",
        "ping_max": 2,
        "jetstream": jetstream,
    }
    if ports_dir:
        conf["ports_file_dir"] = ports_dir
    accounts: dict[str, Any] = {}
    if users:
        accounts[ACCOUNT] = {"jetstream": "enabled", "users": [_user(user) for user in users]}
    if system_user:
        question = {"publish": ["$SYS.REQ.SERVER.PING.JSZ", "$SYS.REQ.USER.INFO"], "subscribe": ["_INBOX_durcheck.>"]}
        accounts["SYS"] = {"users": [{"user": system_user, "password": system_password, "permissions": question}]}
        conf["system_account"] = "SYS"
        if not users:
            # with accounts, a client that gives no user needs one by which it gets in
            accounts[ACCOUNT] = {"jetstream": "enabled", "users": [{"user": "anyone", "password": ""}]}
            conf["no_auth_user"] = "anyone"
    if accounts:
        conf["accounts"] = accounts
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in conf.items()) + "\n"


def _user(user: User) -> dict[str, Any]:
    return {"user": user.name, "password": user.password, "permissions": user.permissions}
