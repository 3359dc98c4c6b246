"""Takes one repair out of the procedure: with it gone the soak must fail, or it proves nothing."""

from collections.abc import Sequence

from waypost_queue import engine, settling, tickets
from waypost_queue.held import Held
from waypost_queue.job import Group, Job
from waypost_queue.model import Settlement
from waypost_queue.pause import reached
from waypost_queue.pull import Lane
from waypost_queue.reports import publish_all
from waypost_queue.work import Decision, Work


async def _no_guard(job: Job, groups: Sequence[Group]) -> set[Group]:
    for group in groups:
        group.fence = 0
    return set(groups)


async def _ticket_first(job: Job, group: Group, work: Work, decision: Decision) -> None:
    """The ticket before outcomes and DSNs: it says that they are stored when they are not."""
    if decision.wait is not None:
        await settling.store_waiting(job, group, work, decision.wait)
    if decision.settled:
        await job.shared.settler(job.shard).put(
            Settlement(mail=work.mail.id, n=work.n, outcomes=decision.settled, owed=decision.owed)
        )
        reached("after_settle")
    await publish_all(job, work, decision.owed)
    job.shared.handler.settled(work, decision)


def take_out(repair: str) -> None:
    """guard: earlier owners may store tickets. order: the ticket is not last. lease: a message is owned for ever.
    recovery: what was delivered again is attempted as if it were new."""
    if repair == "guard":
        tickets.bar = _no_guard
    elif repair == "order":
        engine.settle = _ticket_first
    elif repair == "lease":
        Held.owned = lambda self: True
    elif repair == "recovery":
        Lane.suspicious = lambda self, held: False
    else:
        raise ValueError(f"{repair!r}: guard, order, lease or recovery")
