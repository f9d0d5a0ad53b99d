"""What operators ask of auth (`morpheus admin`, `audit`, `keys`, `rotate-kek`), which only the user `ops` may, and what
other services enter of theirs into the audit log.
"""

from faststream.nats import NatsBroker
from morpheus_common.bus.names import User
from morpheus_common.contracts.accounts import ALLOW_RESET, MAKE_INVITES, AllowReset, MakeInvites
from morpheus_common.contracts.audit import (
    LIST_AUDIT,
    RECORD_ACT,
    VERIFY_AUDIT,
    Actor,
    AuditAction,
    AuditEntries,
    AuditVerdict,
    ListAudit,
    RecordAct,
    VerifyAudit,
)
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.signing_keys import (
    LIST_SIGNING_KEYS,
    ROTATE_SIGNING_KEYS,
    RotateSigningKeys,
    SigningKeyRows,
)
from morpheus_common.contracts.vault import KEK_USES, REWRAP_KEYS, KekUses, KeysRewrapped, RewrapKeys

from morpheus_auth.audit import Audit
from morpheus_auth.invites import Invites
from morpheus_auth.kek_rotation import KekRotation
from morpheus_auth.key_rotation import KeyRotation
from morpheus_auth.password_changes import PasswordChanges

SERVICE = User.AUTH


def subscribe_operator(
    broker: NatsBroker,
    *,
    audit: Audit,
    invites: Invites,
    password_changes: PasswordChanges,
    rotation: KeyRotation,
    kek_rotation: KekRotation,
) -> None:
    """Let the broker answer every question of operators to auth."""

    @broker.subscriber(LIST_SIGNING_KEYS.subject, queue=SERVICE)
    async def operator_list_signing_keys(_: Empty) -> SigningKeyRows:
        return await rotation.read()

    @broker.subscriber(ROTATE_SIGNING_KEYS.subject, queue=SERVICE)
    async def operator_rotate_signing_keys(question: RotateSigningKeys) -> SigningKeyRows:
        return await rotation.rotate(audit, revoke=question.revoke)

    @broker.subscriber(ALLOW_RESET.subject, queue=SERVICE)
    async def operator_allow_reset(question: AllowReset) -> Empty:
        await password_changes.allow_reset(email=question.email, sha256=question.sha256)
        return Empty()

    @broker.subscriber(MAKE_INVITES.subject, queue=SERVICE)
    async def operator_make_invites(question: MakeInvites) -> Empty:
        await invites.make(question.sha256, days=question.days)
        return Empty()

    @broker.subscriber(VERIFY_AUDIT.subject, queue=SERVICE)
    async def operator_verify_audit(question: VerifyAudit) -> AuditVerdict:
        return await audit.verify(question)

    @broker.subscriber(LIST_AUDIT.subject, queue=SERVICE)
    async def operator_list_audit(question: ListAudit) -> AuditEntries:
        return await audit.list_entries(question)

    @broker.subscriber(KEK_USES.subject, queue=SERVICE)
    async def operator_kek_uses(_: Empty) -> KekUses:
        return await kek_rotation.uses()

    @broker.subscriber(REWRAP_KEYS.subject, queue=SERVICE)
    async def operator_rewrap_keys(question: RewrapKeys) -> KeysRewrapped:
        done = await kek_rotation.rewrap(question)
        if done.rewrapped:
            facts: dict[str, str | int | bool] = {"kind": question.kind.value, "rewrapped": done.rewrapped}
            await audit.record(AuditAction.KEYRING_ROTATED, actor=Actor.OPERATOR, subject_user=None, facts=facts)
        return done

    @broker.subscriber(RECORD_ACT.subject, queue=SERVICE)
    async def record_act(question: RecordAct) -> Empty:
        facts = {"session": question.session}
        await audit.record(question.action, actor=Actor.OPERATOR, subject_user=None, facts=facts)
        return Empty()
