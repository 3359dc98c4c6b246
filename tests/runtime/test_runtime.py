"""The process shell: settings from the environment, health over HTTP, metrics as Prometheus reads them."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.support.ports import free_ports
from waypost_runtime import health
from waypost_runtime.settings import ServiceSettings


def test_settings_come_from_the_environment_and_hide_secrets(monkeypatch):
    monkeypatch.setenv("WAYPOST_NATS_URL", "nats://a:1, nats://b:2")
    monkeypatch.setenv("WAYPOST_NATS_PASSWORD", "hunter2")
    monkeypatch.setenv("WAYPOST_POOLS", "default,warm")
    settings = ServiceSettings()
    assert settings.nats_servers == ("nats://a:1", "nats://b:2")
    assert settings.pools == ("default", "warm")
    assert "hunter2" not in repr(settings)


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_readiness_names_what_is_wrong_and_liveness_stays():
    state = {"nats": "no NATS at nats://127.0.0.1:4222"}
    checks = health.Health()
    checks.check("nats", lambda: state["nats"])
    async with health.serve(checks, "127.0.0.1", 0) as port:
        assert await asyncio.to_thread(_get, port, "/readyz") == (503, "nats: no NATS at nats://127.0.0.1:4222\n")
        assert await asyncio.to_thread(_get, port, "/livez") == (200, "ok\n")
        state["nats"] = ""
        assert await asyncio.to_thread(_get, port, "/readyz") == (200, "ok\n")
        status, text = await asyncio.to_thread(_get, port, "/metrics")
        assert status == 200
        assert "# HELP" in text


async def test_a_taken_port_is_named():
    async with health.serve(health.Health(), "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use"):
            health.bind("127.0.0.1", port)


def test_sigterm_ends_a_service_with_its_own_status():
    program = (
        "import sys\nfrom waypost_runtime import process\n"
        "async def main(stop):\n    print('up', flush=True)\n    await stop.wait()\n    return 7\n"
        "sys.exit(process.run(main))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"up\n"
        service.send_signal(signal.SIGTERM)
        assert service.wait(10) == 7


@pytest.mark.parametrize("service", ["queue", "manifests", "delivery", "api"])
def test_sigterm_ends_a_service_that_still_waits_for_nats(service, tmp_path):
    (tmp_path / "manifests").mkdir()
    env = {
        **os.environ,
        "WAYPOST_NATS_URL": f"nats://127.0.0.1:{free_ports(1)[0]}",
        "WAYPOST_HTTP_PORT": "0",
        "WAYPOST_HTTP_HOST": "127.0.0.1",
        "WAYPOST_ALLOW_ANONYMOUS": "true",
        "WAYPOST_HISTORY_URL": f"sqlite:///{tmp_path}/history.db",
        "WAYPOST_MANIFESTS": str(tmp_path / "manifests"),
        "WAYPOST_SECRETS_DIR": str(tmp_path / "secrets"),
    }
    command = [sys.executable, "-m", "waypost_cli", "serve", service]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert b"nats" in line, line + running.stdout.read1()
        running.send_signal(signal.SIGTERM)
        said = running.stdout.read()
        assert running.wait(10) == 0, said
        assert b"told to stop" in said


def test_a_service_may_have_as_many_connections_as_the_hard_limit_lets_it():
    program = (
        "import resource, sys\nfrom waypost_runtime import process\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "async def main(stop):\n    return 0\n"
        "process.run(main)\n"
        "soft, now = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "most = process.DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, process.DESCRIPTORS)\n"
        "sys.exit(0 if (soft, now) == (most, hard) else 1)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
