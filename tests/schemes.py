"""A plugin: schemes that the library does not bring, built, installed and registered."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from distributed_comm import registry
from distributed_comm._tls.security import Security
from distributed_comm._transports.tls import TLSBackend, TLSConnector, TLSListener

SOURCES = Path(__file__).with_name("backends")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """Return a folder into which pip has installed the distributions of tests/backends."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("outside")
    # pip builds in the folder of the sources
    sources = shutil.copytree(SOURCES, folder / "sources")
    offline = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site"]
    done = subprocess.run(
        [*command, *sources.iterdir()], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return folder / "site"


@pytest.fixture(scope="session")
def outside(site):
    """Have what is installed there found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield
    registry.get_backend.cache_clear()


@cache
def temporary_security() -> Security:
    return Security.temporary()


class CertifiedConnector(TLSConnector):
    async def connect(self, address, deserialize=True, **others):
        arguments = temporary_security().connection_args()
        del arguments["require_encryption"]
        return await super().connect(address, deserialize, **arguments, **others)


class CertifiedListener(TLSListener):
    scheme = "certified"


class CertifiedBackend(TLSBackend):
    """tls, with certificates that nobody has to pass."""

    def get_connector(self):
        return CertifiedConnector()

    def get_listener(self, loc, handle_comm, deserialize, **connection_args):
        context = temporary_security().listening
        return CertifiedListener(
            loc, handle_comm, deserialize, ssl_context=context, **connection_args
        )


@pytest.fixture
def certified(monkeypatch):
    monkeypatch.setitem(registry._BUILT_IN, "certified", (__name__, "CertifiedBackend"))
