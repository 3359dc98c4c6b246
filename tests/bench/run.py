"""`make bench`: smtp-source -> relay -> smtp-sink, 4 KiB, Waypost and Postfix in turn in one run.

For each of 20 and 100 sessions, one message a connection and many (-d): messages a second from the first connection to
the last message at the sink, and CPU microseconds a message of the relay's whole process tree (the load generator's own
are not in it). Absolute figures are the machine's; the ratio is what counts. Run it on a quiet machine.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import cpu, peers

SHAPES = (("s20", 20, False), ("s20 -d", 20, True), ("s100", 100, False), ("s100 -d", 100, True))


class Figure(dict[str, float]):
    """One measurement: rate (msgs/s), cpu (us a message), and cpu by process."""


def measure(port: int, pid: int, sink: int, sessions: int, keep: bool, count: int, limit: float) -> Figure:
    """One load of `count` messages through a relay that runs already."""
    receiver = subprocess.Popen(
        ["smtp-sink", "-u", "nobody", "-m", "1000", "-M", str(count), f"127.0.0.1:{sink}", "1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        peers.wait_for_port(sink, 10)
        before, before_by = cpu.seconds(pid)
        begun = time.monotonic()
        source = ["smtp-source", "-s", str(sessions), "-m", str(count), "-l", "4096", "-f", "a@src.test"]
        source += ["-t", "b@dst.test", "-M", "client.test", *(["-d"] if keep else []), f"127.0.0.1:{port}"]
        subprocess.run(source, check=True, timeout=limit, capture_output=True)
        accepted = time.monotonic() - begun
        receiver.wait(limit)
        took = time.monotonic() - begun
        after, after_by = cpu.seconds(pid)
    finally:
        receiver.kill()
        receiver.wait()
    figure = Figure(rate=count / took, accepted=count / accepted, cpu=(after - before) / count * 1e6)
    for name, spent in after_by.items():
        figure[f"cpu {name}"] = (spent - before_by.get(name, 0.0)) / count * 1e6
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="messages a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=("waypost", "postfix"), default=None)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    if shutil.which("smtp-source") is None:
        print("make bench needs smtp-source and smtp-sink: apt-get install postfix", file=sys.stderr)
        return 1
    wanted = [arguments.only] if arguments.only else ["postfix", "waypost"]
    if "postfix" in wanted and not peers.have_postfix():
        print("Postfix is measured only as root with postfix installed; going on without it", file=sys.stderr)
        wanted.remove("postfix")

    results: dict[str, dict[str, list[Figure]]] = {}
    sinks = {name: peers.free_port() for name in wanted}
    with contextlib.ExitStack() as stack:
        relays = {}
        if "postfix" in wanted:
            relays["postfix"] = stack.enter_context(peers.postfix(sinks["postfix"]))
        if "waypost" in wanted:
            relays["waypost"] = stack.enter_context(peers.waypost(sinks["waypost"], workers=arguments.workers))
        for name, (port, pid) in relays.items():  # warm up
            measure(port, pid, sinks[name], 20, True, 500, 120)
        for number in range(arguments.rounds):
            for label, sessions, keep in SHAPES:
                for name, (port, pid) in relays.items():
                    figure = measure(port, pid, sinks[name], sessions, keep, arguments.count, 300)
                    results.setdefault(label, {}).setdefault(name, []).append(figure)
                    print(f"round {number + 1} {label:8} {name:8} {figure['rate']:7.0f} msgs/s {figure['cpu']:6.0f} us")
                    time.sleep(1)

    print(f"\n4 KiB messages, {arguments.count} a measurement, median of {arguments.rounds}")
    print(f"{'':10}" + "".join(f"{name + ' msgs/s (us)':>24}" for name in relays) + f"{'ratio':>8}")
    for label, by_name in results.items():
        rates = {name: statistics.median(f["rate"] for f in figures) for name, figures in by_name.items()}
        line = f"{label:10}"
        for name, figures in by_name.items():
            line += f"{rates[name]:>16.0f} ({statistics.median(f['cpu'] for f in figures):5.0f})"
        if len(rates) == 2:
            line += f"{rates['waypost'] / rates['postfix']:8.2f}"
        print(line)
    if "waypost" in relays:
        print("\nCPU us a message by process")
        for label, by_name in results.items():
            figures = by_name["waypost"]
            parts = {
                key: statistics.median(f.get(key, 0.0) for f in figures) for key in figures[0] if key[:4] == "cpu "
            }
            shown = sorted(parts.items(), key=lambda item: -item[1])
            print(f"{label:10}" + "  ".join(f"{key[4:]} {value:.0f}" for key, value in shown if value >= 1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
