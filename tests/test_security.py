"""Security: certificates from files and texts, the contexts made of them, and a temporary one."""

import pickle
import ssl
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import ca_text, issue, secure, texts, without_certificate

from distributed_comm import Security


@pytest.fixture
def files(tmp_path):
    """Our CA, a certificate and its key as files."""
    paths = {}
    for name, text in {"ca": ca_text(), **texts(issue())}.items():
        paths[name] = tmp_path / f"{name}.pem"
        paths[name].write_text(text)
    return paths


def has_certificate(context: ssl.SSLContext) -> bool:
    """Whether a handshake with this context, which wants a name, gets as far as one."""
    client_in, server_in = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(server_in, client_in, server_side=True)
    client = secure().connecting.wrap_bio(client_in, server_in, server_hostname="localhost")
    for _ in range(3):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return bool(client.getpeercert())


def test_files_and_texts_are_the_same(files):
    both = Security(ca=files["ca"], cert=files["cert"], key=str(files["key"]))
    assert has_certificate(both.listening)
    assert has_certificate(secure().listening)
    assert both.connecting.get_ca_certs() == secure().connecting.get_ca_certs()


def test_one_file_may_hold_the_certificate_and_its_key(files):
    together = files["cert"].read_text() + files["key"].read_text()
    assert has_certificate(Security(ca=ca_text(), cert=together).listening)
    files["cert"].write_text(together)
    assert has_certificate(Security(ca=ca_text(), cert=files["cert"]).listening)


def test_what_the_contexts_ask_for():
    security = secure()
    for context in (security.connecting, security.listening):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
    assert security.connecting.check_hostname
    assert security.listening.num_tickets == 0
    assert secure(mutual=False).listening.verify_mode is ssl.CERT_OPTIONAL
    assert not secure(check_hostname=False).connecting.check_hostname
    newer = secure(minimum_version=ssl.TLSVersion.TLSv1_3)
    assert newer.connecting.minimum_version is ssl.TLSVersion.TLSv1_3


def test_ciphers():
    names = [cipher["name"] for cipher in secure(ciphers="ECDHE+CHACHA20").listening.get_ciphers()]
    older = {name for name in names if not name.startswith("TLS_")}
    assert older == {"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"}
    with pytest.raises(ValueError, match=r"no context can be made of .*No cipher can be selected"):
        _ = secure(ciphers="rot13").listening


def test_a_context_is_made_once():
    security = secure()
    assert security.connecting is security.connecting
    assert security.connection_args()["ssl_context"] is security.connecting
    assert security.listen_args() == {
        "ssl_context": security.listening,
        "require_encryption": True,
    }


def test_what_is_missing_or_wrong_is_named(files, tmp_path):
    with pytest.raises(ValueError, match="to listen with TLS takes a certificate: pass cert="):
        _ = without_certificate().listening
    nowhere = tmp_path / "nowhere.pem"
    for missing in ({"ca": nowhere}, {"cert": str(nowhere)}, {"key": nowhere}):
        with pytest.raises(FileNotFoundError, match=str(nowhere)):
            _ = Security(**{"ca": files["ca"], "cert": files["cert"], **missing}).connecting
    files["ca"].write_text("no certificate")
    with pytest.raises(ValueError, match=r"no context can be made of Security\(ca="):
        _ = Security(ca=files["ca"]).connecting
    other = texts(issue("another.example"))["key"]
    with pytest.raises(ValueError, match="KEY_VALUES_MISMATCH"):
        _ = Security(ca=ca_text(), cert=files["cert"], key=other).connecting


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password():
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key(texts(issue())["key"].encode(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    ).decode()
    with pytest.raises(ValueError, match="the key is encrypted: expected one without a password"):
        _ = replace(secure(), key=locked).connecting


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
@pytest.mark.parametrize(
    "change",
    [str, str.encode, lambda pem: pem.replace("-----BEGIN ", "-----BEG")],
    ids=["PEM", "bytes", "damaged"],
)
def test_a_key_is_in_no_repr_and_in_no_error(name, change):
    """Wherever it was put: a cert may hold its key, and anything may be mistaken."""
    texts = {"ca": ca_text(), "cert": secure().cert, "key": secure().key}
    secret = texts["key"].splitlines()[1]
    security = Security(**{**texts, name: change(texts["key"])}, ciphers="rot13")
    assert secret not in repr(security)
    with pytest.raises(ValueError, match=f"no context can be made of Security|{name}= is ") as info:
        _ = security.listening
    assert secret not in str(info.value)
    assert len(str(info.value)) < 300


def test_repr_shows_paths_and_what_is_not_as_usual():
    assert repr(secure()) == "Security(ca=<text>, cert=<text>, key=<not shown>)"
    security = Security(ca="ca.pem", cert=Path("cert.pem"), mutual=False)
    shown = f"ca='ca.pem', cert={Path('cert.pem')!r}, mutual=False"
    assert repr(security) == f"Security({shown})"


def test_it_can_be_pickled_once_it_was_used():
    security = secure()
    _ = security.connecting, security.listening
    copy = pickle.loads(pickle.dumps(security))
    assert copy == security
    assert has_certificate(copy.listening)


def test_no_file_with_the_key_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _ = secure().listening
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_one_is_of_its_own_and_for_its_own_name_alone():
    x509 = pytest.importorskip("cryptography.x509")
    one, other = Security.temporary(days=3), Security.temporary()
    assert one.key != other.key
    assert one.ca == one.cert
    found = x509.load_pem_x509_certificate(one.cert.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [one.server_hostname]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (found.not_valid_after_utc - found.not_valid_before_utc).days == 4
    assert one.connection_args()["server_hostname"].endswith(".invalid")


def test_without_cryptography_a_temporary_one_says_what_it_needs(tmp_path):
    (tmp_path / "cryptography.py").write_text("raise ImportError")
    program = "import distributed_comm as dc; dc.Security.temporary()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    needed = "ImportError: Security.temporary() needs the library cryptography"
    assert done.stderr.rstrip().endswith(needed)
