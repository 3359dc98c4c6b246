"""One connection to JetStream, by raw requests: what nats-py's own JetStream calls hide is in the open here.

Raises the errors of `errors`; retries nothing by itself, since only the caller knows what a lost answer means.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, MaxPayloadError, NoRespondersError, OutboundBufferLimitError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from .errors import UnavailableError, UnknownFateError, api_error

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT = 5.0  # s, one round trip with an fsync on a slow disk and a quorum
TOO_LARGE = 10054  # JetStream's err_code for a message above a limit


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_ack = msgspec.json.Decoder(_Ack)


class PubAck(msgspec.Struct, frozen=True):
    """The stream has it on disk, at `seq`; `duplicate`: it had it already, by `Nats-Msg-Id`."""

    seq: int
    duplicate: bool = False


class Stored(msgspec.Struct, frozen=True):
    """A message of a stream; `time` is the stream's, in Unix seconds."""

    subject: str
    seq: int
    time: float
    data: bytes
    headers: Mapping[str, str] = {}


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach NATS. `inbox_prefix` must fit the user's permissions (checks.py asks the server)."""

    servers: tuple[str, ...]
    name: str
    user: str | None = None
    password: str | None = None
    credentials_file: str | None = None
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 5.0


def parse_time(text: str) -> float:
    """RFC 3339 with up to nine decimals, as the server writes it, in Unix seconds."""
    head, _, fraction = text.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(head + "+00:00").timestamp()
    return seconds + (float("0." + fraction) if fraction else 0.0)


def parse_headers(raw: bytes) -> dict[str, str]:
    """NATS/1.0 header block."""
    out = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            out[name.decode()] = value.strip().decode()
    return out


class Store:
    """A connection. `epoch` grows with each disconnect: whoever remembers an older one has lost what it pulled."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.epoch = 0
        self.reconnected_at: float | None = None  # monotonic
        self._nc: Client | None = None
        self._closing = False
        self._last_error = ""
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self.died: asyncio.Event = asyncio.Event()  # the connection is closed for good: the process must end
        self.fatal = ""  # why
        self.checked = False  # whether somebody checks each server that this comes to (`connect`)
        self.fit = True  # of a checked one: False from a disconnect on, until the check has passed again

    @property
    def nc(self) -> Client:
        if self._nc is None:
            raise UnavailableError("not connected yet")
        return self._nc

    @property
    def connected(self) -> bool:
        return self._nc is not None and self._nc.is_connected

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """`callback` runs after each reconnect: pull requests and watches die with the connection.

        Returns what takes the callback off again.
        """
        self._on_reconnect.append(callback)
        return lambda: self._on_reconnect.remove(callback)

    async def connect(self, timeout: float | None = None) -> None:
        """Connects within `timeout` seconds (None: as the options say); once connected it reconnects for ever.

        Raises UnavailableError.

        pending_size=0: otherwise a publish that timed out in an outage could still be stored later.
        """
        options = self.options
        nc = Client()
        settings: dict[str, Any] = {
            "servers": list(options.servers),
            "name": options.name,
            "user": options.user,
            "password": options.password,
            "user_credentials": options.credentials_file,
            "inbox_prefix": options.inbox_prefix.encode(),
            "connect_timeout": options.connect_timeout,
            "pending_size": 0,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "ping_interval": 10,
            "max_outstanding_pings": 2,
            "error_cb": self._error,
            "disconnected_cb": self._disconnected,
            "reconnected_cb": self._reconnected,
            "closed_cb": self._closed,
            "allow_reconnect": True,
        }
        try:
            # Its own connect would try for ever as well.
            async with asyncio.timeout(timeout or options.connect_timeout):
                await nc.connect(**settings)
        except (NatsError, OSError, TimeoutError) as error:
            reason = self._last_error or str(error) or type(error).__name__
            await self._abandon(nc)
            raise UnavailableError(f"no NATS at {', '.join(options.servers)}: {reason}") from error
        except asyncio.CancelledError:
            await self._abandon(nc)
            raise
        self._nc = nc

    async def _abandon(self, nc: Client) -> None:
        """Closes a connection that never came about; its `closed` is no news."""
        closing, self._closing = self._closing, True
        try:
            await nc.close()
        except (OSError, NatsError) as error:
            log.debug("nats.close", error=str(error))
        finally:
            self._closing = closing

    async def close(self) -> None:
        self._closing = True
        if self._nc is not None and not self._nc.is_closed:
            try:
                await self._nc.close()
            except (OSError, NatsError) as error:  # what was still to be sent went nowhere: the server is away
                log.debug("nats.close", error=str(error))

    async def _error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if self.connected or text != self._last_error:  # one attempt to reconnect fails as the other
            log.warning("nats.error", error=text)
        self._last_error = text
        if "permissions violation" in text.lower():
            self.die(f"NATS refuses what this service needs: {text}")
        elif "authorization violation" in text.lower() and self._nc is not None:
            self.die("NATS no longer takes this service's password: start again with the new one")

    async def _disconnected(self) -> None:
        self.epoch += 1
        self.fit = not self.checked
        if not self._closing:
            log.warning("nats.disconnected", epoch=self.epoch)

    async def _reconnected(self) -> None:
        self.reconnected_at = time.monotonic()
        log.info("nats.reconnected", epoch=self.epoch)
        for callback in tuple(self._on_reconnect):
            await callback()

    async def _closed(self) -> None:
        if not self._closing:
            self.die("the connection to NATS was closed for good (its password or permissions changed?)")

    def die(self, why: str) -> None:
        """Says that this connection must not be used any more; `died` ends the process."""
        if not self.died.is_set():
            self.fatal = why
            log.error("nats.died", reason=why)
            self.died.set()

    # -- requests

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Msg:
        """One request, one answer. UnavailableError: it was not sent or nobody listens. UnknownFateError: no answer."""
        nc = self.nc
        if not nc.is_connected:
            raise UnavailableError("disconnected")
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        try:
            answer = await nc.request(subject, payload, timeout=timeout, headers=headers)
            if task is not None and task.cancelling() > cancelled:
                # until Python 3.12 its `wait_for` drops a cancellation that meets the answer (python/cpython#86296)
                raise asyncio.CancelledError
            return answer
        except NoRespondersError as error:
            raise UnavailableError(f"{subject}: no responder") from error
        except MaxPayloadError as error:  # it was not sent, and never will be
            raise api_error(subject, 413, TOO_LARGE, f"{len(payload)} octets are more than max_payload") from error
        except OutboundBufferLimitError as error:  # pending_size=0: it was not sent
            raise UnavailableError("disconnected") from error
        except (NatsTimeoutError, TimeoutError) as error:
            raise UnknownFateError(f"{subject}: no answer in {timeout:g} s") from error
        except (ConnectionClosedError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            raise UnknownFateError(f"{subject}: connection lost") from error
        except (NatsError, OSError) as error:
            raise UnknownFateError(f"{subject}: {error}") from error

    async def send(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """A core publish, which nobody confirms. UnavailableError: it was not sent."""
        try:
            await self.nc.publish(subject, payload, reply, headers)
        except (NatsError, OSError) as error:
            raise UnavailableError(f"{subject}: {error}") from error

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, timeout: float = REQUEST_TIMEOUT
    ) -> PubAck:
        """Publishes with acknowledgement: on return the message is on the stream's disks.

        Raises FencedError, FullError, UnavailableError (nothing stored), UnknownFateError, ApiError.
        """
        message = await self.request(subject, payload, headers, timeout)
        ack = _ack.decode(message.data)
        if ack.error is not None:
            error = ack.error
            if error.code == 503 and error.err_code in (10008, 10009, 10039, 10074, 10076, 10118):
                raise UnavailableError(f"{subject}: {error.description}")
            raise api_error(subject, error.code, error.err_code, error.description)
        return PubAck(ack.seq, ack.duplicate)

    async def publish_batch(
        self, batch_id: str, messages: list[tuple[str, bytes, dict[str, str]]], timeout: float = REQUEST_TIMEOUT
    ) -> PubAck:
        """One atomic batch (ADR-50) of at most 1,000 messages to one stream: all are stored, or none.

        Raises FencedError (some expectation failed), BatchRefusedError, FullError, UnavailableError, UnknownFateError.
        """
        if len(messages) == 1:
            subject, payload, headers = messages[0]
            return await self.publish(subject, payload, headers, timeout)
        last = len(messages)
        for number, (subject, payload, headers) in enumerate(messages, 1):
            tagged = {**headers, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            if number == last:
                return await self.publish(subject, payload, {**tagged, "Nats-Batch-Commit": "1"}, timeout)
            if number == 1:
                answer = await self.request(subject, payload, tagged, timeout)
                if answer.data:
                    refusal = _ack.decode(answer.data).error
                    if refusal is not None:
                        raise api_error(subject, refusal.code, refusal.err_code, refusal.description)
            else:
                await self.send(subject, payload, headers=tagged)
        raise ValueError("an empty batch")

    async def api(self, subject: str, body: Any = None, timeout: float = REQUEST_TIMEOUT) -> dict[str, Any]:
        """A JetStream API request (`subject` without `$JS.API.`); the JSON answer, or ApiError with its codes."""
        payload = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads((await self.request("$JS.API." + subject, payload, None, timeout)).data)
        error = answer.get("error")
        if error:
            if error.get("code") == 503 and error.get("err_code") in (10008, 10009, 10118):
                raise UnavailableError(f"{subject}: {error.get('description', '')}")
            raise api_error(subject, error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
        return answer

    # -- reads

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The last message of a subject (wildcards allowed), asked of the leader: Direct Get is stale on replicas."""
        return await self._get(stream, {"last_by_subj": subject})

    async def at(self, stream: str, seq: int) -> Stored | None:
        """The message at a sequence, asked of the leader; None once it is gone."""
        return await self._get(stream, {"seq": seq})

    async def next(self, stream: str, seq: int, subject: str = ">") -> Stored | None:
        """The first message of `subject` at or after `seq`, asked of the leader."""
        return await self._get(stream, {"seq": seq, "next_by_subj": subject})

    async def _get(self, stream: str, query: dict[str, Any]) -> Stored | None:
        subject = "$JS.API.STREAM.MSG.GET." + stream
        answer = json.loads((await self.request(subject, json.dumps(query).encode())).data)
        error = answer.get("error")
        if error:
            if error.get("err_code") == 10037 or (error.get("code") == 404 and error.get("err_code") != 10059):
                return None
            if error.get("code") == 503:
                raise UnavailableError(f"{subject}: {error.get('description', '')}")
            raise api_error(subject, error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
        message = answer["message"]
        return Stored(
            message["subject"],
            message["seq"],
            parse_time(message["time"]),
            base64.b64decode(message.get("data", "")),
            parse_headers(base64.b64decode(message["hdrs"])) if "hdrs" in message else {},
        )

    async def direct(
        self, stream: str, subject: str, seq: int = 1, batch: int = 500, timeout: float = REQUEST_TIMEOUT
    ) -> AsyncGenerator[Stored, None]:
        """Messages of `subject` from `seq` on in order by Direct Get batches (fast, on replicas perhaps stale).

        For bodies and listings, never for the question whether something exists. Raises UnknownFateError when the
        answers stop coming.
        """
        while True:
            inbox = self.nc.new_inbox()
            queue: asyncio.Queue[Msg] = asyncio.Queue()
            subscription = await self.subscribe(inbox, queue.put)
            try:
                request = {"seq": seq, "next_by_subj": subject, "batch": batch}
                await self.send(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
                more = False
                while True:
                    try:
                        async with asyncio.timeout(timeout):
                            message = await queue.get()
                    except TimeoutError as error:
                        raise UnknownFateError(f"DIRECT.GET {stream}: no answer in {timeout:g} s") from error
                    headers = dict(message.headers or {})
                    status = headers.get("Status")
                    if status == "204":
                        break
                    if status == "503" or (status is None and "Nats-Sequence" not in headers):
                        raise UnavailableError(f"DIRECT.GET {stream}: no responder")
                    if status is not None:
                        return  # 404: nothing (more) matches
                    seq = int(headers["Nats-Sequence"]) + 1
                    more = headers.get("Nats-Num-Pending", "0") != "0"
                    yield Stored(
                        headers["Nats-Subject"],
                        seq - 1,
                        parse_time(headers["Nats-Time-Stamp"]),
                        message.data,
                        headers,
                    )
                if not more:
                    return
            finally:
                await self.unsubscribe(subscription)

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]], queue: str = ""
    ) -> Subscription:
        """A core subscription; callbacks of one subscription run one at a time. UnavailableError: none was made."""
        try:
            return await self.nc.subscribe(subject, queue=queue, cb=callback)
        except (NatsError, OSError) as error:
            raise UnavailableError(f"{subject}: {error}") from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription; one that died with its connection is gone already."""
        if self.connected:
            try:
                await subscription.unsubscribe()
            except NatsError as error:
                log.debug("nats.unsubscribe", error=str(error))
