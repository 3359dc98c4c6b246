"""The last good version of each object stays in force while its present one is wrong. Pure."""

from collections.abc import Mapping

from waypost_config.manifests import Manifests, collect
from waypost_config.resources import Key, Resource


def with_last_good(current: Manifests, known: Mapping[Key, Resource]) -> Manifests:
    """`current`, with what was known of objects that are broken now, or whose file can't be read now.

    An object that is simply gone stays gone.
    """
    found = {resource.meta.key: resource for resource in current.resources()}
    kept = [
        resource
        for key, resource in known.items()
        if key not in found and (key in current.broken or _within(resource.meta.file, current.unreadable))
    ]
    return collect(
        [*kept, *found.values()], skipped=current.skipped, broken=current.broken, unreadable=current.unreadable
    )


def _within(file: str, unreadable: frozenset[str]) -> bool:
    """Whether a file can't be read, or lies in a folder that can't."""
    return bool(file) and any(file == place or file.startswith(place.rstrip("/") + "/") for place in unreadable)
