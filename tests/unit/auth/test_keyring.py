import secrets

import pytest
from morpheus_auth.keyring import Keyring, KeyringError
from morpheus_auth.versioned_secrets import VersionedSecrets

FIRST, SECOND = secrets.token_bytes(32), secrets.token_bytes(32)


def keyring(**keys: bytes) -> Keyring:
    return Keyring(VersionedSecrets({int(name[1:]): key for name, key in keys.items()}))


def test_what_was_wrapped_before_a_key_change_still_opens() -> None:
    wrapped = keyring(v1=FIRST).wrap(b"secret", record_id="record")
    assert wrapped.key_version == 1
    assert keyring(v1=FIRST, v2=SECOND).unwrap(wrapped, record_id="record") == b"secret"


def test_new_secrets_are_wrapped_with_the_newest_key() -> None:
    wrapped = keyring(v1=FIRST, v2=SECOND).wrap(b"secret", record_id="record")
    assert keyring(v2=SECOND).unwrap(wrapped, record_id="record") == b"secret"


def test_a_wrapped_secret_does_not_open_in_another_record() -> None:
    """C38: a ciphertext that was moved."""
    ring = keyring(v1=FIRST)
    wrapped = ring.wrap(b"secret", record_id="record")
    with pytest.raises(KeyringError, match="another"):
        ring.unwrap(wrapped, record_id="another")


def test_a_wrong_key_and_a_missing_key_are_told_apart() -> None:
    wrapped = keyring(v1=FIRST).wrap(b"secret", record_id="record")
    with pytest.raises(KeyringError, match="is not the key"):
        keyring(v1=SECOND).unwrap(wrapped, record_id="record")
    with pytest.raises(KeyringError, match="lacks version 1"):
        keyring(v2=SECOND).unwrap(wrapped, record_id="record")


def test_the_same_secret_never_looks_the_same() -> None:
    ring = keyring(v1=FIRST)
    assert ring.wrap(b"secret", record_id="record") != ring.wrap(b"secret", record_id="record")
