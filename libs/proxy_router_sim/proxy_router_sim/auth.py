"""HTTP Basic auth and the permission of each route (contract section 1)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from proxy_router_sim.errors import RouterError

ALL = "*"


@dataclass(frozen=True, slots=True)
class User:
    """A user of the router with the permissions it has, or ``*``."""

    name: str
    password_hash: bytes
    permissions: frozenset[str]

    @classmethod
    def make(cls, name: str, password: str, permissions: Iterable[str]) -> "User":
        """A user with a password in clear."""
        return cls(name, _digest(password), frozenset(permissions))

    @classmethod
    def parse(cls, line: str) -> "User":
        """From ``name:password:perm1,perm2`` or ``name:password:*``. Raises ValueError."""
        name, password, permissions = (*line.split(":"), "", "")[:3] if line.count(":") == 2 else ("", "", "")
        if not (name and password and permissions):
            raise ValueError("a user is name:password:permission,permission or name:password:*")
        return cls.make(name, password, permissions.split(","))


class Users:
    """Everybody who may call the router."""

    def __init__(self, users: Iterable[User]) -> None:
        self._users = {user.name: user for user in users}

    def has(self, name: str) -> bool:
        return name in self._users

    def add(self, user: User) -> None:
        """Add a user, or put it in the place of the one with its name."""
        self._users[user.name] = user

    def remove(self, name: str) -> None:
        """An unknown name is no error."""
        self._users.pop(name, None)

    def authenticate(self, header: str | None) -> User:
        """The user of an Authorization header. Raises RouterError 401."""
        if not header:
            raise RouterError("no basic auth provided", 401)
        name, password = _credentials(header)
        if not name or not password:
            raise RouterError("invalid basic auth provided", 401)
        user = self._users.get(name)
        if user is None or not hmac.compare_digest(user.password_hash, _digest(password)):
            raise RouterError("invalid username or password", 401)
        return user


def authorize(user: User, permission: str) -> None:
    """Raises RouterError 403 if the user lacks the permission."""
    if ALL not in user.permissions and permission not in user.permissions:
        raise RouterError("method not allowed", 403)


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()


def _credentials(header: str) -> tuple[str, str]:
    if not header.startswith("Basic "):
        return "", ""
    try:
        name, _, password = base64.b64decode(header[6:], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, password
