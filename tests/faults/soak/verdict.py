"""Compares the ledger of the next hop with what was accepted: what was lost, and what was sent twice without a fault.

A duplicate is excused when the first transaction was in flight at a fault: of its worker before its outcome was on disk
(or after whoever came next had looked), of the later worker between its last look and its bytes, or of the server.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

Key = tuple[str, int]
Span = tuple[float, float]  # a fault took effect somewhen in it


class Verdict(msgspec.Struct, kw_only=True):
    case: str
    seed: str
    mails: int = 0
    recipients: int = 0
    worker_kills: int = 0
    stops: int = 0
    server_kills: int = 0
    in_flight: int = 0  # duplicates of what was in flight at a fault
    orphans: int = 0  # bodies left to the sweep
    lost: list[Any] = msgspec.field(default_factory=list)
    twice: list[Any] = msgspec.field(default_factory=list)  # sent twice without an excuse
    double_dsns: list[Any] = msgspec.field(default_factory=list)
    both: list[Any] = msgspec.field(default_factory=list)  # delivered and reported as failed
    without_body: int = 0
    stuck: str = ""
    crashes: int = 0

    @property
    def good(self) -> bool:
        return not (
            self.lost or self.twice or self.double_dsns or self.both or self.without_body or self.stuck or self.crashes
        )

    def line(self) -> str:
        """One line for people."""
        counts = (
            f"{self.mails} mails; {self.worker_kills} worker, {self.server_kills} server kills, {self.stops} stops: "
            f"lost {len(self.lost)}, twice {len(self.twice)} (+{self.in_flight} in flight), "
            f"double DSNs {len(self.double_dsns)}, both {len(self.both)}, without body {self.without_body}, "
            f"orphans {self.orphans}, crashes {self.crashes}"
        )
        return f"{'ok  ' if self.good else 'FAIL'} {self.case} seed {self.seed}: {counts}{self.stuck and ', STUCK'}"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def judge(
    verdict: Verdict,
    folder: Path,
    accepted: list[Key],
    settled: Mapping[Key, list[tuple[float, str, int, str]]],
) -> None:
    """Fills in the verdict. `settled`: per recipient (time, result, the remote's count, worker) of each outcome."""
    ledger, events = rows(folder / "ledger.jsonl"), rows(folder / "events.jsonl")
    faults: dict[str, list[Span]] = defaultdict(list)
    for event in events:
        if event["event"] in ("kill", "stop"):
            faults[event["worker"]].append((event["at"], event.get("end", event["at"])))
        if event["worker"] == "server":
            verdict.server_kills += event["event"] == "kill"
        else:
            verdict.worker_kills += event["event"] == "kill"
            verdict.stops += event["event"] == "stop"
        verdict.crashes += event["event"] == "crash"
    everything: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    received: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    reported: dict[Key, set[str]] = defaultdict(set)
    for row in ledger:
        key = (row["mail"], row["index"])
        everything[key].append(row)
        if row["answer"] == "ok" and not row["drop"]:
            received[key].append(row)
        if row["answer"] == "ok" and row["kind"] == "dsn":
            for index in row["about"]["indexes"]:
                reported[row["about"]["mail"], index].add(row["about"]["token"])
    verdict.lost = [key for key in accepted if not received.get(key) and not reported.get(key)]
    verdict.double_dsns = [(key, sorted(tokens)) for key, tokens in reported.items() if len(tokens) > 1]
    verdict.both = [key for key in accepted if received.get(key) and reported.get(key)]
    for key, deliveries in received.items():
        deliveries.sort(key=lambda row: row["at"])
        first = deliveries[0]
        for later in deliveries[1:]:
            if excused(first, later, everything[key], settled.get(key, []), faults):
                verdict.in_flight += 1
            else:
                verdict.twice.append({"key": key, "first": first, "later": later, "settled": settled.get(key, [])})


def excused(
    first: dict[str, Any],
    later: dict[str, Any],
    attempts: list[dict[str, Any]],
    settled: list[tuple[float, str, int, str]],
    faults: Mapping[str, list[Span]],
) -> bool:
    """Whether the first delivery was in flight at a fault."""
    mine = [at for at, result, number, worker in settled if (result, number, worker) == _outcome(first)]
    on_disk = min(mine) if mine else float("inf")
    end = on_disk + 0.005
    others = [
        row
        for row in attempts
        if row["at"] > first["at"] and (row["message"], row["deliveries"]) != (first["message"], first["deliveries"])
    ]
    look = min(min(others, key=lambda row: row["at"], default=later)["looked"], later["looked"])
    in_time = on_disk < look  # whoever came next could have seen the outcome
    if _meet(faults[first["worker"]], first["began"], end) and not in_time:
        return True
    if _meet(faults[later["worker"]] + faults["server"], later["began"] - 0.01, later["at"]):
        return True
    return _meet(faults["server"], first["began"] - 0.005, end) and not in_time


def _meet(faults: list[Span], began: float, end: float) -> bool:
    return any(fault_began <= end and began <= fault_end for fault_began, fault_end in faults)


def _outcome(row: dict[str, Any]) -> tuple[str, int, str]:
    return "delivered", row["number"], row["worker"]
