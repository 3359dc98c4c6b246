"""`waypost serve SERVICE`: services are found by entry point, so that the command imports none of them."""

import sys
from importlib.metadata import EntryPoint, entry_points

from .exits import Exit, fail

GROUP = "waypost.services"


def services() -> dict[str, EntryPoint]:
    """The installed services by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def serve(name: str) -> int:
    """Runs a service in this process until it ends; returns its exit status."""
    known = services()
    if name not in known:
        fail(Exit.USAGE, f"no service {name!r}; there are: {', '.join(sorted(known))}")
    try:
        main = known[name].load()
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("waypost_"):
            raise
        fail(Exit.FAILED, f"the service {name} needs {error.name}: pip install 'waypost[{name}]'")
    sys.argv = [f"waypost serve {name}"]
    return int(main())
