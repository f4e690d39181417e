"""Certificates by trustme: a CA of ours, another one, and what they sign."""

import ssl
import warnings
from datetime import UTC, datetime, timedelta
from functools import cache

import trustme

from distributed_comm import Security

HOSTS = ("127.0.0.1", "localhost")


@cache
def authority(name: str = "ours") -> trustme.CA:
    return trustme.CA(organization_name=name)


@cache
def issue(*hosts: str, by: str = "ours", days: int = 100) -> trustme.LeafCert:
    """Return a certificate for these hosts, which has expired where days are negative."""
    end = datetime.now(UTC) + timedelta(days=days)
    return authority(by).issue_cert(
        *(hosts or HOSTS), not_before=end - timedelta(days=200), not_after=end
    )


def ca_text(name: str = "ours") -> str:
    return authority(name).cert_pem.bytes().decode()


def texts(leaf: trustme.LeafCert) -> dict[str, str]:
    """Return a certificate and its key, as Security takes them."""
    chain = "".join(pem.bytes().decode() for pem in leaf.cert_chain_pems)
    return {"cert": chain, "key": leaf.private_key_pem.bytes().decode()}


def secure(*, ca: str = "ours", leaf: trustme.LeafCert | None = None, **kwargs) -> Security:
    """Return what one side has: our CA, and a certificate that it signed."""
    return Security(ca=ca_text(ca), **texts(leaf or issue()), **kwargs)


def without_certificate(**kwargs) -> Security:
    return Security(ca=ca_text(), **kwargs)


def speak_only_tls_1_1(context: ssl.SSLContext) -> ssl.SSLContext:
    """Set a context back by fifteen years; OpenSSL has to be talked into it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context
