"""E-mail addresses as identities: which spellings are the same account."""

import re
import unicodedata

MAX_LOCAL_BYTES = 64
MAX_DOMAIN_CHARACTERS = 253
"""RFC 5321, section 4.5.3.1."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def normalise_email(email: str) -> str:
    """Return the form an account is unique by: the local part in NFKC with case folded, the domain in its ASCII form.

    The domain follows IDNA 2003, which is in the standard library. Raises `ValueError`, which never quotes the address.
    """
    local, at, domain = unicodedata.normalize("NFKC", email.strip()).rpartition("@")
    local = unicodedata.normalize("NFKC", local.casefold())
    if not at or not local or "@" in local or not local.isprintable() or any(c.isspace() for c in local):
        raise ValueError("not an e-mail address")
    if len(local.encode()) > MAX_LOCAL_BYTES or len(domain) > MAX_DOMAIN_CHARACTERS:
        raise ValueError("the e-mail address is too long")
    return f"{local}@{_ascii_domain(domain)}"


def _ascii_domain(domain: str) -> str:
    try:
        text = domain.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        raise ValueError("the e-mail address has no valid domain") from None
    if not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError("the e-mail address has no valid domain")
    return text
