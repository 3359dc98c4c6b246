"""What `waypost dev` was told, and the environment that each service gets from it. Pure."""

from dataclasses import dataclass
from pathlib import Path

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
SERVICES = ("queue", "manifests", "delivery", "api", "ingress")  # in the order of their start


@dataclass(frozen=True, kw_only=True)
class DevOptions:
    """The flags of `waypost dev`; docs/cli.md describes each."""

    data: Path
    manifests: str  # a folder, or - for standard input
    host: str = "127.0.0.1"
    mx_port: int = 2525
    submission_port: int = 2587
    submissions_port: int = 2465
    http_port: int = 8080
    dns: str = ""
    remote_port: int = 25
    allow_private_mx: bool = False
    inbox: bool = True
    workers: int = 1
    secrets: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    log_level: str = "warning"
    first_mail: bool = True


@dataclass(frozen=True, kw_only=True)
class DevState:
    """What was made or chosen at start: ports, passwords, files."""

    nats_port: int
    passwords: dict[str, str]
    health_ports: dict[str, int]
    ca: Path
    certificate: Path
    key: Path
    manifests: str
    api_token: str = ""  # "" = the API is on loopback and asks for none
    hostname: str = "localhost"


def reach(host: str) -> str:
    """Where a client on this machine finds what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def api_url(options: DevOptions) -> str:
    return f"http://{address(reach(options.host), options.http_port)}"


def environment(options: DevOptions, state: DevState, service: str) -> dict[str, str]:
    """The `WAYPOST_...` variables of one service."""
    data = options.data
    env = {
        "NATS_URL": f"nats://127.0.0.1:{state.nats_port}",
        "NATS_USER": service,
        "NATS_PASSWORD": state.passwords[service],
        "NATS_SYSTEM_USER": "system",
        "NATS_SYSTEM_PASSWORD": state.passwords["system"],
        "SHARDS": str(options.workers),
        "STORE_BYTES": str(8 << 30),
        "INSTANCE": f"dev-{service}",
        "HOSTNAME": state.hostname,
        "DATA_DIR": str(data),
        "LOG_LEVEL": options.log_level,
        "LOG_FORMAT": "console",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(state.health_ports[service]),
    }
    match service:
        case "manifests":
            env |= {
                "MANIFESTS": state.manifests,
                "SECRET_OVERRIDES": "\n".join(options.secrets),
                "SERVICE_OVERRIDES": "\n".join(options.services),
                "SEAL_KEY_FILE": str(data / "keys" / "seal.key"),
                "SUBMISSION_HOST": reach(options.host),
                "SUBMISSION_PORT": str(options.submission_port),
                "CA_FILE": str(state.ca),
            }
        case "ingress":
            env |= {
                "HOST": options.host,
                "MX_PORT": str(options.mx_port),
                "SUBMISSION_PORT": str(options.submission_port),
                "SUBMISSIONS_PORT": str(options.submissions_port),
                "TLS_CERT": str(state.certificate),
                "TLS_KEY": str(state.key),
                "WORKERS": str(options.workers),
            }
        case "delivery":
            env |= {
                "DNS": options.dns,
                "REMOTE_PORT": str(options.remote_port),
                "ALLOW_PRIVATE_MX": str(options.allow_private_mx).lower(),
                "INBOX_CATCH_ALL": str(options.inbox).lower(),
                "INBOX_RESERVED_NAMES": str(options.inbox).lower(),
                "SEAL_KEY_FILE": str(data / "keys" / "seal.key"),
            }
        case "api":
            env |= {
                "HTTP_HOST": options.host,
                "HTTP_PORT": str(options.http_port),
                "HISTORY_URL": f"sqlite:///{data / 'history.db'}",
                "ALLOW_ANONYMOUS": str(not state.api_token).lower(),
                "API_TOKENS": f"dev={state.api_token}" if state.api_token else "",
            }
    return {f"WAYPOST_{name}": value for name, value in env.items()}
