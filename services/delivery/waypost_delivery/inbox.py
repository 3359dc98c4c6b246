"""The transport that keeps mail inside: on a laptop all of it, elsewhere what is for reserved names (RFC 6761)."""

import time

from waypost_queue.events import DialogueLine, InboxMail
from waypost_queue.inbox import Inbox
from waypost_queue.model import Reply

from .transport import Attempted, Job, RecipientOutcome

SITE = "inbox"


class InboxTransport:
    """Implements `transport.Transport`. The inbox is the end of a mail's way: what it takes is delivered."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def deliver(self, job: Job) -> Attempted:
        """Stores the mail once, whatever is delivered again. Raises StoreError: the message then comes back."""
        began = time.monotonic()
        mail, now = job.mail, time.time()
        await self._inbox.put(
            InboxMail(
                mail=mail.id,
                sender=mail.sender,
                recipients=tuple(recipient.address for recipient in job.recipients.values()),
                accepted=mail.accepted,
                delivered=now,
                content=job.content,
                subject=mail.subject,
                tenant=mail.tenant,
                domain=mail.domain,
            ),
            min(job.recipients),
        )
        reply = Reply(code=250, enhanced="2.0.0", text="Kept in the inbox: it did not leave", at=now)
        duration = time.monotonic() - began
        return Attempted(
            results={index: RecipientOutcome("delivered", reply) for index in job.recipients},
            dialogue=(DialogueLine(duration, "-", "kept in the inbox"),),
            duration=duration,
            site=SITE,
        )

    async def close(self) -> None:
        """Nothing is open."""
