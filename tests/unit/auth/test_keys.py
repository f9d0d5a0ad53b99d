import hashlib
import hmac
import secrets

from morpheus_auth.keys import digest_of


def test_a_key_is_stored_as_a_keyed_hash_of_its_hash() -> None:
    """C2, C3: the look-up is by index over what nobody without the pepper can aim at."""
    pepper, key = secrets.token_bytes(32), "sk-a key"
    sha256 = hashlib.sha256(key.encode())
    assert digest_of(sha256.hexdigest(), pepper) == hmac.digest(pepper, sha256.digest(), "sha256").hex()


def test_each_pepper_gives_another_digest() -> None:
    """C2."""
    sha256 = hashlib.sha256(b"sk-a key").hexdigest()
    assert digest_of(sha256, secrets.token_bytes(32)) != digest_of(sha256, secrets.token_bytes(32))
