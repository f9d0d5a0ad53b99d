"""The audit log: what is recorded of every privileged act on accounts and credentials, and what operators ask of it.

Auth keeps it, seals it with a key of its own, and is the only one that can tell whether an entry is as it was written.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import REGISTRY, Empty, Message, UtcTime
from morpheus_common.contracts.operator import OPS_ONLY, PAGE_ROWS


class AuditAction(StrEnum):
    """What was done. The values are stored for ever: none is renamed, none is used again for something else."""

    USER_REGISTERED = "user.registered"
    PASSWORD_CHANGED = "password.changed"  # noqa: S105 - the name of an act, not a password
    PASSWORD_RESET_MADE = "password.reset_made"  # noqa: S105 - the name of an act, not a password
    PASSWORD_RESET_USED = "password.reset_used"  # noqa: S105 - the name of an act, not a password
    LOGIN_ENDED = "login.ended"
    LOGIN_REVOKED = "login.revoked"
    """A refresh token came a second time: its whole family was revoked."""
    KEY_CREATED = "key.created"
    KEY_CHANGED = "key.changed"
    KEY_ROTATED = "key.rotated"
    KEY_DEACTIVATED = "key.deactivated"
    PRIVATE_KEY_STORED = "private_key.stored"
    PRIVATE_KEY_DELETED = "private_key.deleted"
    DELEGATION_STORED = "delegation.stored"
    DELEGATION_DELETED = "delegation.deleted"
    INVITE_MADE = "invite.made"
    DELETION_BEGUN = "deletion.begun"
    DELETION_COMPLETED = "deletion.completed"
    SESSION_ADOPTED = "session.adopted"
    SESSION_CLOSED = "session.closed"
    SIGNING_KEY_ROTATED = "signing_key.rotated"
    KEYRING_ROTATED = "keyring.rotated"


class Actor(StrEnum):
    """Who did it: the user whom it is about, an operator by command, or the service by itself."""

    USER = "user"
    OPERATOR = "operator"
    SERVICE = "service"


AuditHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class AuditMark(Message):
    """A place in the log: the sequence number of an entry (from 1 on; 0 is before the first) and its hash."""

    sequence: int = Field(ge=0)
    hash: AuditHash


START = AuditMark(sequence=0, hash="0" * 64)
"""What the first entry follows."""


class AuditProblemKind(StrEnum):
    """What is wrong."""

    MISSING = "missing"
    ALTERED = "altered"
    INSERTED = "inserted"
    BROKEN_LINK = "broken link"
    HEAD = "head"
    NO_KEY = "no key"
    NOT_AS_NOTED = "not as noted"


class AuditProblem(Message):
    """One thing that is wrong. `sequence`: of the first entry concerned, None where it has none."""

    kind: AuditProblemKind
    sequence: int | None
    message: str


class VerifyAudit(Message):
    """Ask for a verdict on the entries after `after`. `expect` was noted before and has to be in the log unchanged."""

    after: AuditMark = START
    expect: AuditMark | None = None
    limit: int = Field(PAGE_ROWS, ge=1, le=PAGE_ROWS)


class AuditVerdict(Message):
    """`last`: where the next page goes on, and at the end the head. `more`: there are further entries."""

    last: AuditMark
    entries: int
    problems: list[AuditProblem]
    more: bool


class ListAudit(Message):
    """Ask for entries, oldest first. `after`: the last sequence number of the page before. `user_id`: about him only."""

    after: int = Field(0, ge=0)
    since: UtcTime | None = None
    action: AuditAction | None = None
    user_id: str | None = Field(None, max_length=100)
    limit: int = Field(PAGE_ROWS, ge=1, le=PAGE_ROWS)


class AuditEntry(Message):
    """An entry. `subject` stands for a user, and nothing tells for which once his account is gone."""

    sequence: int
    at: UtcTime
    action: str
    actor: str
    subject: str | None
    facts: dict[str, str | int | bool]
    hash: str


class AuditEntries(Message):
    """A page of entries. `more`: ask again after the last one."""

    entries: list[AuditEntry]
    more: bool


class RecordAct(Message):
    """Enter what an operator is about to have done to a session, before it is done. `session`: its id on chain or ours."""

    action: Literal[AuditAction.SESSION_ADOPTED, AuditAction.SESSION_CLOSED]
    session: str = Field(pattern=r"^[0-9A-Za-z-]{1,100}$")


RECORD_ACT = REGISTRY.rpc(User.AUTH, "record_act", RecordAct, Empty, callers=frozenset({User.SESSIONS}), timeout=3.0)
VERIFY_AUDIT = REGISTRY.rpc(
    User.AUTH, "operator_verify_audit", VerifyAudit, AuditVerdict, callers=OPS_ONLY, timeout=15.0
)
LIST_AUDIT = REGISTRY.rpc(User.AUTH, "operator_list_audit", ListAudit, AuditEntries, callers=OPS_ONLY, timeout=15.0)
