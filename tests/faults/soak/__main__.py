"""Runs the soak.

    python -m tests.faults.soak --runs 100 --jobs 2
    python -m tests.faults.soak --case workers --case none:after_ticket:exit:0.05 --runs 4 --without guard

Runs go through the cases in turn, each with the next seed. Exit status 1 if any run failed; what it left is kept then.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
import structlog

from tests.faults.soak.run import Case, Run, stamp

POINTS = (
    *(
        "after_recv",
        "own_attempt",
        "after_send",
        "after_settle",
        "after_dsn",
        "after_spool",
        "after_ticket",
        "before_ack",
    ),
    *(
        "after_ack",
        "purge_between",
        "before_purge",
        "resched",
        "ticket_wire",
        "dsn_wire",
        "rec_start",
        "rec_between",
    ),
    *("rec_after_scan", "dsn_check", "after_guard", "retaken"),
)
RARE = (
    "resched",
    "rec_start",
    "rec_between",
    "rec_after_scan",
    "dsn_check",
    "after_guard",
    "retaken",
    "after_dsn",
    "dsn_wire",
)


def cases() -> list[Case]:
    """Every mode, then every named point, ended and stopped there; every third with attempts longer than ack_wait."""
    out = [Case(mode=mode) for mode in ("all", "workers", "server", "stops", "terms")]
    for number, point in enumerate(POINTS):
        mode, probability = ("pausew", 0.1) if point in RARE else ("none", 0.02)
        slow = 0.03 if number % 3 == 0 else 0.0
        out.append(Case(mode=mode, point=point, how="exit", probability=probability, slow=slow))
        out.append(Case(mode=mode, point=point, how="stop", probability=probability / 2, slow=slow))
    return out


def parse(text: str) -> Case:
    mode, *rest = text.split(":")
    if not rest:
        return Case(mode=mode)
    point, how, probability = rest
    return Case(mode=mode, point=point, how=how, probability=float(probability))


async def soak(todo: list[tuple[Case, str]], jobs: int, keep: Path, first_port: int) -> int:
    """Runs them; the number that failed."""
    waiting = list(enumerate(todo))
    failed = 0

    async def job(place: int) -> None:
        nonlocal failed
        while waiting:
            number, (case, seed) = waiting.pop(0)
            folder = Path(tempfile.mkdtemp(prefix="soak-"))
            ports = [first_port + 10 * place + i for i in range(case.replicas)]
            verdict = await Run(case, seed, folder, ports).go()
            print(stamp(), f"{number + 1}/{len(todo)}", verdict.line(), flush=True)
            if verdict.good:
                shutil.rmtree(folder)
            else:
                failed += 1
                kept = keep / f"{number + 1}-{seed}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.move(folder, kept)
                (kept / "verdict.json").write_bytes(msgspec.json.format(msgspec.json.encode(verdict)))
                print(f"  kept in {kept}", flush=True)

    await asyncio.gather(*(job(place) for place in range(jobs)))
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--seed", default="s", help="runs are seeded SEED0, SEED1, ...")
    parser.add_argument("--case", action="append", type=parse, help="MODE[:POINT:exit|stop:PROBABILITY]")
    parser.add_argument("--without", default="", help="take out a repair: guard, order, lease, recovery")
    parser.add_argument("--slow", type=float, help="share of attempts longer than ack_wait")
    parser.add_argument("--seconds", type=float, default=9.0, help="of load a run")
    parser.add_argument("--rate", type=float, default=9.0, help="bundles a second")
    parser.add_argument("--replicas", type=int, default=1, help="3: a cluster of three on this machine")
    parser.add_argument("--port", type=int, default=15400, help="the first of the servers' ports")
    parser.add_argument("--keep", type=Path, default=Path("soak-failures"), help="where failed runs are kept")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    chosen = options.case or cases()
    changes = {
        "broken": options.without,
        "replicas": options.replicas,
        "seconds": options.seconds,
        "rate": options.rate,
        **({"slow": options.slow} if options.slow is not None else {}),
    }
    todo = [
        (msgspec.structs.replace(chosen[n % len(chosen)], **changes), f"{options.seed}{n}") for n in range(options.runs)
    ]
    options.keep.mkdir(parents=True, exist_ok=True)
    failed = asyncio.run(soak(todo, options.jobs, options.keep, options.port))
    print(f"{options.runs - failed} of {options.runs} runs good")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
