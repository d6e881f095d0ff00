"""The certificate that pictures are signed with: the user's own, or one that the installation made for itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ..checks import optional, plain_line
from ..errors import UnreadableFile
from ..files.bounded import open_regular
from .installation import Installation

FOLDER = "credentials"
"""Folder beside the signing key, for the files below."""

CERTIFICATE, KEY, SELF_MADE = "certificate.pem", "key.pem", "self_made.pem"
"""The user's certificate with those that issued it, its private key, and both in one for the self-made one."""

FEATURE = "Signing pictures with Content Credentials"

_BYTES_AT_MOST = 1 << 18
_ALGORITHMS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_SELF_MADE_DAYS = 20 * 365


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, as the signing library takes them.

    Attributes:
        chain: PEM, the signing certificate first, then those that issued it.
        key: PEM, unencrypted.
        algorithm: C2PA's name of the signature, such as "es256".
        holder: To whom it was issued.
        self_made: Whether the installation made it for itself.
    """

    chain: str
    key: str = field(repr=False)
    algorithm: str
    holder: str
    self_made: bool

    @property
    def note(self) -> str:
        """What a signature with it proves, in one line."""
        if not self.self_made:
            return f"Signed for {self.holder}."
        return (
            "Signed with a self-made certificate, which proves nothing to others. Put your own into "
            f"{FOLDER}/{CERTIFICATE} and {FOLDER}/{KEY} beside the signing key."
        )


def certificate_of(own: Installation, now: datetime) -> Certificate:
    """The user's certificate, or else the installation's own, which is made on first use.

    Args:
        own: The installation; its folder holds the files.
        now: The present moment, with time zone.

    Raises:
        MissingDependency: If the library that signs is missing.
        UnreadableFile: If the certificate or its key cannot be used.
        UnwritableFile: If no certificate can be kept.
    """
    optional("c2pa", FEATURE)
    certificate, key = (own.folder / FOLDER / name for name in (CERTIFICATE, KEY))
    if certificate.exists() or key.exists():
        return _read(certificate, key, now, self_made=False)
    made = own.made_once(f"{FOLDER}/{SELF_MADE}", lambda: _self_made(now))
    return _read(made, made, now, self_made=True)


def _read(certificate: Path, key: Path, now: datetime, *, self_made: bool) -> Certificate:
    x509, serialization = _library("x509"), _library("hazmat.primitives.serialization")
    try:
        chain = x509.load_pem_x509_certificates(_content(certificate))
        secret = serialization.load_pem_private_key(_content(key), None)
    except (ValueError, TypeError) as error:  # TypeError: the key has a password
        raise UnreadableFile(
            f"{certificate} and {key.name} are not a certificate and its key in PEM format, without a password. "
            "Replace them, or delete both: the pack then uses a certificate that it makes for itself."
        ) from error
    first, algorithm = chain[0], _algorithm(secret)
    if not algorithm or secret.public_key() != first.public_key():
        fault = "belongs to another certificate" if algorithm else "is of a kind that pictures cannot be signed with"
        raise UnreadableFile(f"{key} {fault}. Put the key of {certificate.name} there: EC, RSA or Ed25519.")
    if not first.not_valid_before_utc <= now < first.not_valid_after_utc:
        span = f"{first.not_valid_before_utc:%Y-%m-%d} to {first.not_valid_after_utc:%Y-%m-%d}"
        raise UnreadableFile(f"{certificate} is valid from {span}. Replace it by one that is valid now.")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return Certificate(
        chain="".join(one.public_bytes(pem).decode() for one in chain),
        key=secret.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode(),
        algorithm=algorithm,
        holder=plain_line(first.subject.rfc4514_string(), 200),
        self_made=self_made,
    )


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(_BYTES_AT_MOST)


def _library(part: str) -> Any:
    return optional(f"cryptography.{part}", FEATURE)


def _algorithm(key: Any) -> str:
    kinds = "hazmat.primitives.asymmetric"
    if isinstance(key, _library(f"{kinds}.ec").EllipticCurvePrivateKey):
        return _ALGORITHMS.get(key.curve.name, "")
    if isinstance(key, _library(f"{kinds}.rsa").RSAPrivateKey):
        return "ps256"
    return "ed25519" if isinstance(key, _library(f"{kinds}.ed25519").Ed25519PrivateKey) else ""


def _self_made(now: datetime) -> bytes:
    """Key and certificate in PEM format, with the one that issued it: C2PA takes none that issued itself."""
    ec, serialization = _library("hazmat.primitives.asymmetric.ec"), _library("hazmat.primitives.serialization")
    issuer_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _issued("Issuer of this installation", issuer_key, None, issuer_key, now)
    certificate = _issued("Meta-LoRA, self-made", key, issuer, issuer_key, now)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret + certificate.public_bytes(pem) + issuer.public_bytes(pem)


def _issued(name: str, key: Any, issuer: Any, issuer_key: Any, now: datetime) -> Any:
    x509, oids, hashes = _library("x509"), _library("x509.oid"), _library("hazmat.primitives.hashes")
    words = ((oids.NameOID.COMMON_NAME, name), (oids.NameOID.ORGANIZATION_NAME, "Self-made, not verified"))
    subject = x509.Name([x509.NameAttribute(kind, word) for kind, word in words])
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    usage["key_cert_sign" if issuer is None else "digital_signature"] = True
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_SELF_MADE_DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
    )
    if issuer is not None:
        kinds = x509.ExtendedKeyUsage([oids.ExtendedKeyUsageOID.EMAIL_PROTECTION])  # one of those that C2PA takes
        made = made.add_extension(kinds, critical=False)
    return made.sign(issuer_key, hashes.SHA256())
