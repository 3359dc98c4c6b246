"""Delivery by SMTP: to the MX of a domain, or to a smarthost.

One attempt: find the route (cached), take a connection of its site or a slot to open one, and send; several
transactions where the recipients are too many for one. A host that can't be reached, or that is lost before anything
was decided, is followed by the next one; whatever is decided stays decided. What a site can't take now is
SiteBusyError, before anything is attempted.
"""

import time

from .client_session import Dialer, Dialogue
from .dns import Resolver
from .pool import Pool
from .routing import Router, UnroutableError, loop_reply
from .smtp_attempt import Attempt, Run, Shared, dated
from .tls import Contexts, policy
from .transport import Attempted, Job, RecipientOutcome, SiteInfo, TransportSettings

_MOST_RECEIVED = 100  # RFC 5321 6.3: a mail with more Received lines is in a loop


class SmtpTransport:
    """`transport.Transport` over SMTP. Made inside a running event loop."""

    def __init__(self, settings: TransportSettings, resolver: Resolver | None = None) -> None:
        self._resolver = resolver or Resolver(settings.dns)
        own_names = frozenset(name.lower() for name in (settings.hostname, *settings.own_names))
        self._shared = Shared(
            settings=settings,
            router=Router(self._resolver, settings),
            dialer=Dialer(Contexts(settings.ca_file), own_names, settings.hostname),
            pool=Pool(settings),
        )

    async def site_of(self, domain: str) -> SiteInfo:
        """The site of a domain's MX, from the cache wherever possible."""
        return await self._shared.router.site_of(domain)

    async def close(self) -> None:
        """Ends every connection. Nothing may be in delivery any more."""
        await self._shared.pool.close()
        await self._resolver.close()

    async def deliver(self, job: Job) -> Attempted:
        """See `transport.Transport.deliver`."""
        began = time.monotonic()
        attempt = Attempt(job, Dialogue(began))
        plan = job.plan
        try:
            _refuse_loop(job.content)
            route = await self._shared.router.route(job.domain, plan.route)
        except UnroutableError as error:
            attempt.dialogue.add("-", error.reply.text)
            attempt.undecided(RecipientOutcome(error.result, dated(error.reply)))
            return attempt.result(time.monotonic() - began, site=job.domain)
        site = self._shared.pool.site(route.site)
        tls = policy(plan.tls, route.smarthost)
        key = (tls, plan.ehlo, plan.ip_families, route.smarthost, plan.password)
        session = await site.take(key, plan.limits)
        await Run(self._shared, site, route, tls, key, attempt, session).run()
        return attempt.result(time.monotonic() - began, site=route.site)


def _refuse_loop(content: bytes) -> None:
    """RFC 5321 6.3. The header alone is looked at, and line by line only if it might hold too many."""
    head = content.partition(b"\r\n\r\n")[0]
    if head.count(b":") > _MOST_RECEIVED:
        count = (b"\r\n" + head).lower().count(b"\r\nreceived:")
        if count > _MOST_RECEIVED:
            raise UnroutableError("failed", loop_reply(f"it has {count} Received lines, {_MOST_RECEIVED} at most"))
