"""`/v1/resources`: MailDomains and DestinationPolicies with their status, where there is no Kubernetes API to ask."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query

from waypost_config.status import STATUS_PREFIX, StoredObject
from waypost_queue import codec, kv

from .deps import Caller, StoreDep

router = APIRouter(prefix="/v1/resources", tags=["resources"])


@router.get("/{kind}")
async def resources(
    _caller: Caller,
    store: StoreDep,
    kind: Annotated[Literal["maildomain", "destinationpolicy"], Path()],
    namespace: Annotated[str, Query(max_length=63)] = "",
) -> list[dict[str, Any]]:
    """The objects of a kind, as `kubectl get -o json` shows them."""
    entries = await kv.Bucket(store, "state").entries(f"{STATUS_PREFIX}{kind}.")
    found = [codec.decode(entry.value, StoredObject) for entry in entries.values()]
    found.sort(key=lambda one: (one.namespace, one.name))
    return [one.manifest() for one in found if not namespace or one.namespace == namespace]
