"""A laboratory for the transport: one DNS server, next hops on loopback, and jobs made in a line."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self

from tests.support.dns import DnsServer
from waypost_delivery.smtp import SmtpTransport
from waypost_delivery.transport import Attempted, DeliveryPlan, Job, Timeouts, TransportSettings
from waypost_queue.model import Mail, Recipient

CONTENT = b"From: a@shop.test\r\nSubject: hello\r\n\r\nHello.\r\n"
SHORT = Timeouts(
    connect=1, tls=1, greeting=0.3, hello=0.3, mail=0.3, rcpt=0.3, data=0.3, block=0.3, final=0.3, quit=0.2
)


def job(
    *addresses: str,
    content: bytes = CONTENT,
    plan: DeliveryPlan | None = None,
    owned: Callable[[], bool] = lambda: True,
    recipients: tuple[Recipient, ...] = (),
    **mail: Any,
) -> Job:
    """A job for addresses of one domain (`to@remote.test` unless told)."""
    if not recipients:
        recipients = tuple(
            Recipient(address=address, domain=address.rpartition("@")[2].lower())
            for address in addresses or ("to@remote.test",)
        )
    mail.setdefault("sender", "a@shop.test")
    return Job(
        mail=Mail(id="0" * 27, recipients=recipients, size=len(content), accepted=0.0, content=content, **mail),
        recipients=dict(enumerate(recipients)),
        content=content,
        domain=recipients[0].domain,
        plan=plan or DeliveryPlan(),
        owned=owned,
    )


class Lab:
    """DNS in which each domain named is served by `127.0.0.1`, and a transport towards `port`."""

    def __init__(self, port: int, *domains: str, **settings: Any) -> None:
        self.dns = DnsServer()
        for domain in domains or ("remote.test",):
            self.dns.update({domain: {"MX": [f"10 mx.{domain}."]}, f"mx.{domain}": {"A": ["127.0.0.1"]}})
        self._settings = {"hostname": "relay.shop.test", "allow_private_mx": True, "remote_port": port, **settings}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.dns)
        self.transport = SmtpTransport(TransportSettings(dns=(self.dns.address,), **self._settings))
        self._stack.push_async_callback(self.transport.close)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def deliver(self, *addresses: str, **options: Any) -> Attempted:
        """Delivers `job(...)`."""
        return await self.transport.deliver(job(*addresses, **options))
