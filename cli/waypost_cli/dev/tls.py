"""Certificates of a laptop: an own CA, and a leaf for localhost that is renewed before it ends."""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_DAYS = 3650
_LEAF_DAYS = 90
_RENEW_DAYS = 30
_LOCAL = ("localhost", "127.0.0.1", "::1")


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _fresh(path: Path, now: dt.datetime, hosts: Sequence[str] = ()) -> bool:
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc - now < dt.timedelta(days=_RENEW_DAYS):
        return False
    if not hosts:
        return True
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    return all(_general(host) in names for host in hosts)


def ensure(folder: Path, host: str, now: dt.datetime) -> tuple[Path, Path, Path]:
    """(CA certificate, leaf certificate, leaf key) in `folder`, made or renewed where needed.

    The leaf is good for `host` (a name or an address) and for this machine's own names.
    """
    hosts = tuple(dict.fromkeys((host, *_LOCAL)))
    ca_cert, ca_key = folder / "ca.crt", folder / "ca.key"
    leaf_cert, leaf_key = folder / "tls.crt", folder / "tls.key"
    if not (_fresh(ca_cert, now) and ca_key.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name("Waypost development CA"), _name("Waypost development CA"), key.public_key(), now, _CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_usage(sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(ca_key, _pem(key))
        write_private(ca_cert, certificate.public_bytes(serialization.Encoding.PEM))
        leaf_cert.unlink(missing_ok=True)
    if not (_fresh(leaf_cert, now, hosts) and leaf_key.exists()):
        issuer_key = serialization.load_pem_private_key(ca_key.read_bytes(), None)
        if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{ca_key} is no elliptic-curve key; delete {folder} to have it made again")
        issuer = x509.load_pem_x509_certificate(ca_cert.read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(host), issuer.subject, key.public_key(), now, _LEAF_DAYS)
            .add_extension(x509.SubjectAlternativeName([_general(one) for one in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .add_extension(_usage(sign=False), critical=True)
            .sign(issuer_key, hashes.SHA256())
        )
        write_private(leaf_key, _pem(key))
        write_private(leaf_cert, certificate.public_bytes(serialization.Encoding.PEM))
    return ca_cert, leaf_cert, leaf_key


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
