"""Why TLS failed, in words that say what to do about it."""

import ssl

__all__ = ["explain", "is_plaintext"]

#: What OpenSSL says of bytes that are no TLS.
PLAINTEXT = {
    "HTTPS_PROXY_REQUEST", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE",
    "WRONG_VERSION_NUMBER",
}  # fmt: skip

_OTHER_CA = "comes from a CA that this side does not know: pass the one that signed it as ca="
_OTHER_HOST = "is not for {host!r}: dial a name that it is for, or pass that as server_hostname="
#: Why this side refuses the peer's certificate, by the code of OpenSSL's x509_vfy.h.
REFUSALS = {
    9: "is not valid yet: compare the clocks of the two machines",
    10: "has expired: the peer needs a new one",
    18: _OTHER_CA,
    19: _OTHER_CA,
    20: _OTHER_CA,
    21: _OTHER_CA,
    62: _OTHER_HOST,
    64: _OTHER_HOST,
}

_NO_VERSION = "the peer speaks no version of TLS that this side takes, which is 1.2 or newer"
#: Why a handshake failed, by OpenSSL's reason. An alert is what the peer says.
REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer showed no certificate: it has to pass cert= "
    "and key=, signed by the CA of this side",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate: pass cert= and key=, "
    "signed by its CA",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know the CA of our certificate: pass it there "
    "as ca=, or pass another cert= here",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired: make a new one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer refuses our certificate: it may not be valid yet, by "
    "the peer's clock",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer refuses the handshake: it may want a certificate, "
    "cert= and key=, or other ciphers=",
    "NO_SHARED_CIPHER": "the two sides have no cipher in common: compare ciphers=",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "bytes were changed on their way",
    "NO_PROTOCOLS_AVAILABLE": _NO_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": "the two sides have no version of TLS in common: ours "
    "is 1.2 or newer, unless the context says otherwise",
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    "VERSION_TOO_LOW": _NO_VERSION,
    "WRONG_SSL_VERSION": _NO_VERSION,
}


def is_plaintext(exc: ssl.SSLError) -> bool:
    """Whether the peer seems not to speak TLS at all."""
    return exc.reason in PLAINTEXT


def explain(exc: ssl.SSLError, host: str | None) -> str:
    """Return one line; ``host`` is the name that was expected, None on the listening side."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        refusal = REFUSALS.get(exc.verify_code)
        if refusal is None:
            refusal = f"was refused: {exc.verify_message}"
        return f"the peer's certificate {refusal.format(host=host)}"
    if is_plaintext(exc):
        side = "the peer does not speak TLS"
        return f"{side}: it has to dial tls://" if host is None else f"{side}: dial tcp://"
    reason = REASONS.get(exc.reason or "", f"TLS failed: {exc.reason or exc}")
    if exc.reason == "SSLV3_ALERT_BAD_CERTIFICATE" and host is None:  # only diallers look at names
        reason += ", or not for the host name that the peer has dialled"
    return reason
