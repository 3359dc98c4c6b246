"""`--secret NS/NAME=KEY=@FILE` and `--service NS/NAME=HOST:PORT`."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from waypost_config.manifests import Problem
from waypost_config.resources import Key, ObjectMeta, Secret

_MAX_VALUE = 1 << 20  # octets, as of a Secret


class SecretOverride(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    key: str
    file: Path


class ServiceOverride(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    host: str
    port: int


def secret_override(text: str) -> SecretOverride:
    """Raises ValueError that says how it is written."""
    place, _, rest = text.partition("=")
    key, _, value = rest.partition("=")
    namespace, slash, name = place.partition("/")
    if not (slash and namespace and name and key and value.startswith("@") and len(value) > 1):
        raise ValueError(f"{text!r}: write NS/NAME=KEY=@FILE, such as shop/relay=password=@relay.txt")
    return SecretOverride(namespace, name, key, Path(value[1:]))


def service_override(text: str) -> ServiceOverride:
    """Raises ValueError that says how it is written."""
    place, _, address = text.partition("=")
    namespace, slash, name = place.partition("/")
    host, colon, port = address.rpartition(":")
    if not (slash and namespace and name and colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: write NS/NAME=HOST:PORT, such as shop/desk=127.0.0.1:8080")
    return ServiceOverride(namespace, name, host.strip("[]"), int(port))


def overridden(
    secrets: dict[Key, Secret], overrides: Iterable[SecretOverride]
) -> tuple[dict[Key, Secret], list[Problem]]:
    """The Secrets with the files' values over them; one line break at the end of a file is not part of its value."""
    out = dict(secrets)
    problems = []
    for override in overrides:
        key = Key("Secret", override.namespace, override.name)
        try:
            with override.file.open("rb") as file:
                value = file.read(_MAX_VALUE)
        except OSError as error:
            text = f"{error.strerror}; --secret needs a file that can be read"
            problems.append(Problem(message=text, file=str(override.file), object=str(key), field=override.key))
            continue
        value = value.removesuffix(b"\n").removesuffix(b"\r")
        base = out.get(key) or Secret(meta=ObjectMeta(key=key, file=str(override.file)), data={})
        out[key] = Secret(meta=base.meta, data={**base.data, override.key: value})
    return out, problems
