"""Signs a manifest with ed25519 and checks who signed one (RFC 8032, by ``cryptography``).

The signature covers the manifest, and the manifest the hash of every file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.errors import BundleError, EnvironmentLacks, RequestError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

UNCHECKED = "somebody: give --key to check who"


def sign(manifest: bytes, key: Path) -> bytes:
    """Return the content of ``manifest.sig``.

    Args:
        manifest: Its bytes as stored.
        key: File with a private key (PEM, PKCS 8, ed25519, no password).

    Raises:
        RequestError: the file holds no such key.
        EnvironmentLacks: ``cryptography`` is not installed.
    """
    private = _private(key)
    public = private.public_key().public_bytes_raw().hex()
    text = {
        "algorithm": "ed25519",
        "public_key": public,
        "signature": private.sign(manifest).hex(),
    }
    return (json.dumps(text, indent=2) + "\n").encode()


def check(manifest: bytes, seal: bytes | None, key: Path | None) -> str:
    """Return who signed: the public key that was asked for, somebody unchecked, or nobody.

    A signature proves nothing without a key that the caller trusts: anybody can sign.

    Args:
        manifest: Its bytes as stored.
        seal: Content of ``manifest.sig``; None: there is none.
        key: File with the public key that must have signed; None: whoever.

    Raises:
        BundleError: it is not signed by ``key``.
        RequestError: ``key`` holds no public key.
    """
    if key is None:
        return UNCHECKED if seal is not None else ""
    public = _public(key)
    if seal is None:
        raise BundleError("it is not signed", remedy="ask its author to sign it with --sign")
    from cryptography.exceptions import InvalidSignature

    try:
        given = bytes.fromhex(json.loads(seal)["signature"])
        public.verify(given, manifest)
    except (ValueError, TypeError, KeyError, InvalidSignature) as error:
        raise BundleError(
            f"its signature is not one of the key {key}",
            remedy="do not use it: it was changed, or signed by somebody else",
        ) from error
    return public.public_bytes_raw().hex()


def _private(key: Path) -> Ed25519PrivateKey:
    _require_library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    found = _loaded(key, lambda data: serialization.load_pem_private_key(data, password=None))
    if not isinstance(found, ed25519.Ed25519PrivateKey):
        raise RequestError("this is no ed25519 private key", where=str(key), remedy=_HOW)
    return found


def _public(key: Path) -> Ed25519PublicKey:
    _require_library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    found = _loaded(key, serialization.load_pem_public_key)
    if not isinstance(found, ed25519.Ed25519PublicKey):
        raise RequestError("this is no ed25519 public key", where=str(key), remedy=_HOW)
    return found


_HOW = (
    "openssl genpkey -algorithm ed25519 -out key.pem; "
    "openssl pkey -in key.pem -pubout -out key.pub.pem"
)


def _loaded(key: Path, load: Any) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(key.read_bytes())
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=str(key)) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError(f"holds no key: {error}", where=str(key), remedy=_HOW) from error


def _require_library() -> None:
    try:
        import cryptography  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise EnvironmentLacks(
            "signatures need the package cryptography", remedy="pip install 'trtforge[sign]'"
        ) from error
