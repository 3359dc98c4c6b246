"""What is measured: Waypost by its own command, Postfix from Debian's package, each relaying to the same sink."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MANIFESTS = """
apiVersion: waypost.dev/v1alpha1
kind: MailDomain
metadata: {name: src.test, namespace: bench}
spec:
  domain: src.test
  senders:
  - name: load
    subjects:
    - {kind: Network, cidr: 127.0.0.0/8}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, limit: float, process: subprocess.Popen[bytes] | None = None) -> None:
    """Returns once something greets on the port."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"ended with status {process.returncode} before it listened on {port}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            probe.settimeout(5)
            if probe.recv(4).startswith(b"220"):
                probe.sendall(b"QUIT\r\n")
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing greets on port {port} after {limit:g} s")


@contextlib.contextmanager
def waypost(sink: int, *, workers: int = 1) -> Iterator[tuple[int, int]]:
    """(port, process id) of a whole Waypost: NATS and every service."""
    dns_port, port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder:
        manifests = Path(folder) / "manifests"
        manifests.mkdir()
        (manifests / "bench.yaml").write_text(MANIFESTS)
        dns = subprocess.Popen([sys.executable, "-m", "tests.bench.dns", str(dns_port)])
        command = [
            sys.executable, "-m", "waypost_cli", "dev", "--manifests", str(manifests), "--data", f"{folder}/data",
            "--mx-port", str(port), "--submission-port", str(free_port()), "--submissions-port", str(free_port()),
            "--http-port", str(free_port()), "--dns", f"127.0.0.1:{dns_port}", "--remote-port", str(sink),
            "--allow-private-mx", "--no-inbox", "--no-first-mail", "--workers", str(workers),
        ]  # fmt: skip
        process = subprocess.Popen(command, start_new_session=True)
        try:
            wait_for_port(port, 60, process)
            time.sleep(2)  # let the start's own work end before anything is measured
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            dns.kill()
            dns.wait()


@contextlib.contextmanager
def postfix(sink: int) -> Iterator[tuple[int, int]]:
    """(port, process id of master) of a Postfix with Debian's defaults that relays everything to the sink."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="waypost-postfix-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        config, queue, data = root / "etc", root / "spool", root / "lib"
        for one in (config, queue, data):
            one.mkdir()
        shutil.chown(data, "postfix")
        shutil.copy("/etc/postfix/postfix-files", config)
        for name in ("dynamicmaps.cf",):
            if Path("/etc/postfix", name).exists():
                shutil.copy(Path("/etc/postfix", name), config)
        (config / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
myhostname = mail.bench.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{sink}
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtp_dns_support_level = disabled
default_process_limit = 200
default_destination_concurrency_limit = 100
maillog_file = {root}/maillog
maillog_file_prefixes = {root}
alias_maps =
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
"""
        )
        master = Path("/usr/share/postfix/master.cf.dist").read_text()
        lines = [
            line.replace("smtp      inet", f"127.0.0.1:{port} inet") if line.startswith("smtp      inet") else line
            for line in master.splitlines()
        ]
        lines = [
            line.replace("       y       ", "       n       ", 1) if line[:1].isalnum() else line for line in lines
        ]
        if not any(line.startswith("postlog") for line in lines):
            lines.append("postlog   unix-dgram n  -       n       -       1       postlogd")
        (config / "master.cf").write_text("\n".join(lines) + "\n")
        subprocess.run(["postfix", "-c", str(config), "start"], check=True, capture_output=True)
        try:
            wait_for_port(port, 30)
            pid = int((queue / "pid" / "master.pid").read_text().strip())
            yield port, pid
        finally:
            subprocess.run(["postfix", "-c", str(config), "stop"], check=False, capture_output=True)


def have_postfix() -> bool:
    return os.geteuid() == 0 and shutil.which("postfix") is not None and shutil.which("smtp-source") is not None
