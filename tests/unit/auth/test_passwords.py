import asyncio
import os
import threading

import pytest
from morpheus_auth.passwords import COMMON, NICE, Passwords, read_new_password, read_password
from morpheus_common.errors import ApiError
from morpheus_common.request_context import Deadline, deadline


def cheap(*, at_once: int = 2, waiting: int = 4) -> Passwords:
    return Passwords(passes=1, memory_kib=8, lanes=1, at_once=at_once, waiting=waiting)


class SlowHasher:
    """Hashes when it is told to. Counts how many it was asked for, and how many at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = self.most_at_once = self.asked = 0
        self._lock = threading.Lock()

    def hash(self, password: str) -> str:
        with self._lock:
            self.asked += 1
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        self.go.wait()
        with self._lock:
            self.running -= 1
        return f"hash of {password}"


async def test_a_password_verifies_against_its_own_hash_only() -> None:
    """C10."""
    passwords = cheap()
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$")
    with passwords.place():
        assert await passwords.verify("correct horse", stored)
        assert not await passwords.verify("wrong horse", stored)


async def test_an_unknown_user_costs_a_whole_verification_and_never_passes() -> None:
    """C9."""
    passwords = cheap()
    verified: list[str] = []
    hasher = passwords._hasher

    class Counting:
        def verify(self, password: str, stored: str) -> bool:
            verified.append(stored)
            return hasher.verify(password, stored)

    passwords._hasher = Counting()  # type: ignore[assignment]  # a hasher that counts stands in
    with passwords.place():
        assert not await passwords.verify("anything", None)
    assert verified[0].startswith("$argon2id$v=19$m=8,t=1,p=1$")


async def test_hashes_run_a_few_at_a_time_and_one_too_many_is_refused_at_once() -> None:
    passwords, hasher = cheap(at_once=2, waiting=4), SlowHasher()
    passwords._hasher = hasher  # type: ignore[assignment]  # a hasher that counts stands in
    admitted = [asyncio.create_task(passwords.hash(f"password {n}")) for n in range(6)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await passwords.hash("one too many")
    assert (refused.value.code, refused.value.retry_after) == ("overloaded", 1)
    hasher.go.set()
    assert await asyncio.gather(*admitted) == [f"hash of password {n}" for n in range(6)]
    assert hasher.most_at_once <= 2
    assert await passwords.hash("there is room again") == "hash of there is room again"


async def test_what_is_asked_before_a_hash_has_a_place_in_the_line() -> None:
    passwords = cheap(at_once=1, waiting=0)
    with passwords.place(), pytest.raises(ApiError, match="overloaded"):
        await passwords.hash("one too many")
    await passwords.hash("there is room again")


async def test_hashes_are_less_urgent_than_all_else() -> None:
    passwords = cheap()
    priority = await passwords._in_turn(lambda: os.getpriority(os.PRIO_PROCESS, 0))
    assert priority == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)


async def test_nothing_is_hashed_for_a_caller_who_gave_up_while_waiting() -> None:
    passwords, hasher = cheap(at_once=1, waiting=4), SlowHasher()
    passwords._hasher = hasher  # type: ignore[assignment]  # a hasher that counts stands in
    running = asyncio.create_task(passwords.hash("first"))
    await asyncio.sleep(0)
    deadline.set(Deadline.after(-1))
    waiting = asyncio.create_task(passwords.hash("second"))
    hasher.go.set()
    with pytest.raises(ApiError, match="service_timeout"):
        await waiting
    assert await running == "hash of first"
    assert hasher.asked == 1


def test_composed_and_decomposed_accents_are_one_password() -> None:
    assert read_password("cafe\N{COMBINING ACUTE ACCENT} creme".encode()) == read_new_password(
        "caf\N{LATIN SMALL LETTER E WITH ACUTE} creme".encode()
    )


@pytest.mark.parametrize("raw", [b"", b"sevench", b"x" * 1025, b"\xff" * 8])
def test_a_password_that_cannot_be_chosen_is_refused_without_being_quoted(raw: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read_new_password(raw)
    assert (refused.value.code, refused.value.param) == ("validation_error", "password")
    assert "sevench" not in refused.value.message


@pytest.mark.parametrize("length", [8, 1024])
def test_length_is_counted_in_characters_not_in_bytes(length: int) -> None:
    assert len(read_new_password(("\N{LATIN SMALL LETTER E WITH ACUTE}" * length).encode())) == length


def test_the_ten_thousand_most_common_passwords_are_refused_in_any_case_of_their_letters() -> None:
    assert 9_900 < len(COMMON) <= 10_000
    for common in ("password", "PassWord", "12345678", "QwertyUiop"):
        with pytest.raises(ApiError) as refused:
            read_new_password(common.encode(), param="new_password")
        assert (refused.value.code, refused.value.param) == ("password_too_common", "new_password")
    assert read_new_password(b"password and more") == "password and more"


def test_length_is_counted_after_composition() -> None:
    """Seven letters typed as fourteen characters are seven."""
    with pytest.raises(ApiError, match="validation_error"):
        read_new_password(("e\N{COMBINING ACUTE ACCENT}" * 7).encode())
    read_new_password(("e\N{COMBINING ACUTE ACCENT}" * 1024).encode())
