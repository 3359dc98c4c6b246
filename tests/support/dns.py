"""A DNS server for tests: real UDP and TCP on one port, records in a dict, faults on request.

    async with DnsServer({"shop.test": {"MX": ["10 mx.shop.test."]}, "mx.shop.test": {"A": ["127.0.0.1"]}}) as dns:
        dns.faults["slow.test"] = "timeout"

It answers as a resolver does: CNAMEs are followed inside one answer, a missing name is NXDOMAIN, a missing type is an
empty answer, both with an SOA whose minimum is the negative TTL. `queries` is the ledger of what was asked.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Literal, Self, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = Mapping[str, Mapping[str, list[str]]]
Fault = Literal["servfail", "refused", "timeout", "truncate", "garbage", "lame-cname"]
"""truncate: TC over UDP, the answer over TCP alone; lame-cname: a CNAME without what it points to."""

_CHAIN = 64  # CNAMEs put into one answer


class DnsServer:
    """Async context manager; `address` is (host, port) for both UDP and TCP."""

    def __init__(self, records: Records | None = None, *, ttl: int = 300, host: str = "127.0.0.1") -> None:
        self.records: dict[str, dict[str, list[str]]] = {}
        self.faults: dict[str, Fault] = {}
        self.queries: list[tuple[str, str]] = []  # (name, type), in order
        self.ttl = ttl
        self.host = host
        self.port = 0
        self.gate: asyncio.Event | None = None  # answers wait until it is set
        self._tasks: set[asyncio.Task[None]] = set()
        self.update(records or {})

    def update(self, records: Records) -> None:
        """Adds names, or replaces what is known of them."""
        for name, types in records.items():
            self.records[name.rstrip(".").lower()] = {kind.upper(): list(data) for kind, data in types.items()}

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def count(self, name: str, kind: str) -> int:
        """How often this was asked."""
        return self.queries.count((name, kind))

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for attempt in range(20):
            self._tcp = await asyncio.start_server(self._serve_tcp, self.host, 0)
            self.port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=(self.host, self.port)
                )
            except OSError:  # somebody has the port in UDP: take another
                self._tcp.close()
                await self._tcp.wait_closed()
                if attempt == 19:
                    raise
            else:
                break
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._udp.close()
        self._tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._tcp.wait_closed()

    def spawn(self, data: bytes, send: asyncio.DatagramTransport, peer: tuple[str, int]) -> None:
        task = asyncio.create_task(self._answer_udp(data, send, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_udp(self, data: bytes, send: asyncio.DatagramTransport, peer: tuple[str, int]) -> None:
        answer = await self._answer(data, udp=True)
        if answer is not None:
            send.sendto(answer, peer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2))
                answer = await self._answer(await reader.readexactly(size), udp=False)
                if answer is not None:
                    writer.write(len(answer).to_bytes(2) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, data: bytes, *, udp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, kind))
        if self.gate is not None:
            await self.gate.wait()
        fault = self.faults.get(name)
        response = dns.message.make_response(query, recursion_available=True)
        if fault == "timeout":
            return None
        if fault == "garbage":
            return b"\x00" * 7
        if fault in ("servfail", "refused"):
            response.set_rcode(dns.rcode.SERVFAIL if fault == "servfail" else dns.rcode.REFUSED)
            return response.to_wire()
        if fault == "truncate" and udp:
            response.flags |= dns.flags.TC
            return response.to_wire()
        self._fill(response, question.name, kind, follow=fault != "lame-cname")
        wire = response.to_wire(max_size=65535)
        if udp and len(wire) > max(512, query.payload):
            response = dns.message.make_response(query, recursion_available=True)
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        return wire

    def _fill(self, response: dns.message.Message, name: dns.name.Name, kind: str, *, follow: bool) -> None:
        for _ in range(_CHAIN):
            types = self.records.get(name.to_text(omit_final_dot=True).lower())
            if types is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            if kind in types:
                response.answer.append(dns.rrset.from_text_list(name, self.ttl, "IN", kind, types[kind]))
                return
            if "CNAME" not in types:
                break
            response.answer.append(dns.rrset.from_text_list(name, self.ttl, "IN", "CNAME", types["CNAME"]))
            name = dns.name.from_text(types["CNAME"][0])
            if not follow:
                return
        else:
            return
        soa = f". hostmaster. 1 3600 600 86400 {self.ttl}"
        response.authority.append(dns.rrset.from_text_list(dns.name.root, self.ttl, "IN", "SOA", [soa]))


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.spawn(data, self._transport, addr)
