"""Passwords: their form, and argon2id in threads, a few at a time."""

import asyncio
import os
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from morpheus_common.errors import ApiError
from morpheus_common.request_context import deadline
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from zxcvbn.frequency_lists import FREQUENCY_LISTS

MIN_CHARACTERS = 8
MAX_CHARACTERS = 1024
COMMON = frozenset(password.casefold() for password in FREQUENCY_LISTS["passwords"][:10_000])
"""The passwords that are guessed first. The list has the most common one first."""

NICE = 10
"""How much less urgent a hash is than all else: a ninth of the usual weight on Linux, where each thread has its own."""

T = TypeVar("T")


def read_password(raw: bytes) -> str:
    """Return the password in NFC, so that one keyboard's accents are another's. Raises `ValueError`."""
    return unicodedata.normalize("NFC", raw.decode())


def read_new_password(raw: bytes, *, param: str = "password") -> str:
    """Return a password that somebody may choose. Raises `ApiError`: validation_error, password_too_common."""
    try:
        password = read_password(raw)
    except ValueError:
        raise ApiError("validation_error", "The password is not valid UTF-8.", param=param) from None
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        raise ApiError(
            "validation_error",
            f"The password needs {MIN_CHARACTERS} to {MAX_CHARACTERS} characters.",
            param=param,
        )
    if password.casefold() in COMMON:
        raise ApiError("password_too_common", param=param)
    return password


class Passwords:
    """Hashes passwords. Each hash takes much memory and a tenth of a second of several cores, on purpose, so only
    `at_once` run together, `waiting` more wait their turn, and the next is refused.
    """

    def __init__(self, *, passes: int, memory_kib: int, lanes: int, at_once: int, waiting: int) -> None:
        self._hasher = PasswordHash((Argon2Hasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes),))
        # each prompt waits for a check of its key, and must not wait for a processor with eight lanes of argon2 on it
        self._threads = ThreadPoolExecutor(at_once, "argon2", initializer=_let_others_go_first)
        self._turns = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._limit = at_once + waiting
        self._admitted = 0
        self._nobodys_hash = self._hasher.hash(secrets.token_urlsafe())

    @contextmanager
    def place(self) -> Iterator[None]:
        """Keep a place in the line while the block runs: what has to be asked before a hash is bounded with it.

        Raises `ApiError` (overloaded).
        """
        if self._admitted >= self._limit:
            raise ApiError("overloaded", retry_after=1)
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return max(0, self._admitted - self._at_once)

    async def hash(self, password: str) -> str:
        """Return the hash to store. Raises `ApiError` (overloaded, service_timeout)."""
        with self.place():
            return await self._in_turn(lambda: self._hasher.hash(password))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Tell whether the password is the one that was hashed; without a hash, say no after the same time.

        Needs a `place`. Raises `ApiError` (service_timeout).
        """
        stored = password_hash or self._nobodys_hash
        return await self._in_turn(lambda: self._hasher.verify(password, stored)) and password_hash is not None

    async def _in_turn(self, work: Callable[[], T]) -> T:
        async with self._turns:
            caller = deadline.get()
            if caller is not None and caller.passed:
                raise ApiError("service_timeout", retry_after=1)
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _let_others_go_first() -> None:
    """Make this thread, and those that argon2 starts from it, less urgent."""
    os.nice(NICE)
