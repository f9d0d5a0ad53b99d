"""Secrets of one development stack: made once, kept in its folder, readable by their owner only."""

import base64
import json
import os
import secrets
from pathlib import Path
from typing import Self

import nkeys
from morpheus_common.bus.names import User
from pydantic import BaseModel

FILE_NAME = "secrets.json"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read. Replaces what was there in one step."""
    scratch = path.with_name(path.name + ".new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)


def new_seed() -> str:
    """Return the seed of a new NKey user."""
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)).decode()


def public_key(seed: str) -> str:
    """Return the public NKey that belongs to `seed`: what nats-server is told."""
    return bytes(nkeys.from_seed(seed.encode()).public_key).decode()


def random_base64(count: int) -> str:
    """Return so many random bytes, in base64."""
    return base64.b64encode(secrets.token_bytes(count)).decode()


class StackSecrets(BaseModel):
    """Every secret of a stack; `load` makes them on first use."""

    nats_seeds: dict[User, str]
    observer_password: str
    mongo_key: str
    """What members of the replica set know each other by. There is one member, but without it mongod asks nobody who he is."""
    mongo_passwords: dict[str, str]
    """By user name."""
    auth_pepper: str
    """Base64 of 32 bytes: what API keys are hashed with."""
    auth_key: str
    """Base64 of 32 bytes: what private keys at rest are wrapped with."""
    router_password: str
    """The gateway's password at the simulated router."""

    @classmethod
    def new(cls) -> Self:
        """Return fresh secrets."""
        users = ("root", "ops", "auth", "sessions", "automation")
        return cls(
            nats_seeds={user: new_seed() for user in User},
            observer_password=secrets.token_urlsafe(18),
            mongo_key=random_base64(96),
            mongo_passwords={user: secrets.token_urlsafe(24) for user in users},
            auth_pepper=random_base64(32),
            auth_key=random_base64(32),
            router_password=secrets.token_urlsafe(18),
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the secrets kept in `folder`, made and stored there if there are none."""
        path = folder / FILE_NAME
        if path.is_file():
            return cls.model_validate(json.loads(path.read_text()))
        made = cls.new()
        write_private(path, made.model_dump_json(indent=2))
        return made

    @property
    def nats_public_keys(self) -> dict[User, str]:
        """The public half of every seed."""
        return {user: public_key(seed) for user, seed in self.nats_seeds.items()}
