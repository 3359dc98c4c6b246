"""CPU seconds of a process tree, from /proc."""

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()  # from field 3 (state) on


def tree(root: int) -> dict[int, str]:
    """Process id -> name of `root` and everything below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return {pid: _name(pid) for pid in found}


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    text = [word.decode("utf-8", "replace") for word in words if word]
    if "serve" in text:
        return text[text.index("serve") + 1]
    return Path(text[0]).name if text else "?"


def seconds(root: int) -> tuple[float, dict[str, float]]:
    """(all, by name): user and system seconds of the tree, with those of children that were reaped."""
    total = 0.0
    by_name: dict[str, float] = {}
    for pid, name in tree(root).items():
        fields = _stat(pid)
        if not fields:
            continue
        spent = sum(int(fields[i]) for i in (11, 12, 13, 14)) / _TICK
        by_name[name] = by_name.get(name, 0.0) + spent
        total += spent
    return total, by_name
