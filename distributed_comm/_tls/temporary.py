"""Certificates for a while, made with the library ``cryptography``, which is slow to load."""

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["make_temporary"]

#: So that peers whose clocks are slow can use it at once.
SLACK = timedelta(days=1)


def make_temporary(host: str, days: int) -> tuple[str, str]:
    """Return a certificate, signed by itself, and its key, as PEM texts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(now + timedelta(days=days))
    )
    for extension, critical in _extensions(host):
        builder = builder.add_extension(extension, critical)
    pem = serialization.Encoding.PEM
    cert = builder.sign(key, hashes.SHA256()).public_bytes(pem)
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return cert.decode(), secret.decode()


def _extensions(host: str) -> list[tuple[Any, bool]]:
    """Return what it is for, and whether that is critical: both sides, and no other signature."""
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [
        (x509.SubjectAlternativeName([x509.DNSName(host)]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage(both), False),
    ]
