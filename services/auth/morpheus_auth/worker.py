"""What auth answers on the bus, and how its parts are put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from faststream.nats import NatsBroker
from morpheus_common import __version__
from morpheus_common.bus.connection import raw_connection
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.accounts import (
    CHANGE_PASSWORD,
    END_LOGINS,
    GET_ACCOUNT,
    RESET_PASSWORD,
    Account,
    ChangePassword,
    EndLogins,
    GetAccount,
    PasswordChange,
    PasswordReset,
    ResetPassword,
)
from morpheus_common.contracts.auth import (
    CHANGE_KEY,
    CHECK_KEY,
    CHECK_TOKEN,
    CREATE_KEY,
    DEACTIVATE_KEY,
    ENDED_KEYS,
    GET_KEY,
    LIST_KEYS,
    LOGIN,
    PUBLIC_KEYS,
    REFRESH,
    REGISTER,
    ROTATE_KEY,
    Caller,
    ChangeKey,
    CheckKey,
    CheckToken,
    CreateKey,
    DeactivateKey,
    GetKey,
    KeyIds,
    KeyRow,
    KeyRows,
    ListKeys,
    Login,
    PublicKeys,
    PublicKeysQuestion,
    Refresh,
    Register,
    RotatedKey,
    RotateKey,
    TokenPair,
    UserRow,
)
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.delegations import (
    ACTIVE_DELEGATION,
    DELETE_DELEGATION,
    LIST_DELEGATIONS,
    STORE_DELEGATION,
    ActiveDelegation,
    ActiveDelegationQuestion,
    DelegationRow,
    DelegationRows,
    DeleteDelegation,
    ListDelegations,
    StoreDelegation,
)
from morpheus_common.contracts.deletion import (
    DELETE_ACCOUNT,
    GET_DELETION,
    AccountDeletion,
    DeleteAccount,
    GetDeletion,
)
from morpheus_common.contracts.health import PING, Health
from morpheus_common.contracts.vault import (
    DELETE_PRIVATE_KEY,
    PRIVATE_KEY_STATUS,
    STORE_PRIVATE_KEY,
    PrivateKeyDeleted,
    PrivateKeyOf,
    PrivateKeyStatus,
    StorePrivateKey,
)
from morpheus_common.errors import ApiError
from morpheus_common.service import background, until_it_works
from morpheus_common.settings import Environment
from morpheus_common.standing import Standing
from morpheus_common.store.service import StoreService, store_service
from morpheus_common.store.watch import DatabaseWatch

from morpheus_auth.access_tokens import AccessTokens
from morpheus_auth.accounts import Accounts
from morpheus_auth.audit import Audit, load_audit_keys
from morpheus_auth.deferred_writes import DeferredWrites
from morpheus_auth.delegations import Delegations
from morpheus_auth.deletion import Deletions
from morpheus_auth.documents import DOCUMENTS, MIGRATIONS, ApiKeyDocument
from morpheus_auth.erasing import parts_of
from morpheus_auth.invites import Invites
from morpheus_auth.kek_rotation import KekRotation
from morpheus_auth.key_encryption import ProviderAway
from morpheus_auth.key_rotation import KeyRotation
from morpheus_auth.keyed_hashes import KeyedHashes
from morpheus_auth.keyring import Keyring, open_keyring
from morpheus_auth.keys import ApiKeys
from morpheus_auth.login_throttle import LoginThrottle
from morpheus_auth.metrics import (
    HASHES_WAITING,
    KEY_CHECKS,
    LOGINS,
    counted,
    measure_deletions,
    measure_key_encryption,
)
from morpheus_auth.operator_rpc import subscribe_operator
from morpheus_auth.password_changes import PasswordChanges
from morpheus_auth.passwords import Passwords
from morpheus_auth.sealing_key import SealingKey, load_sealing_key, read_answer_key, seal_answer
from morpheus_auth.settings import AuthSettings
from morpheus_auth.signed_delegations import DelegationRules
from morpheus_auth.signing import SigningKeys
from morpheus_auth.tokens import Logins
from morpheus_auth.vault import Vault

SERVICE = User.AUTH
CONCURRENT = 64
"""Handlers of one subject that may wait for the database at once; its connection pool has 50."""
DELEGATIONS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Auth:
    """What there is one of in a process."""

    settings: AuthSettings
    watch: DatabaseWatch
    signing: SigningKeys
    rotation: KeyRotation
    sealing: SealingKey
    invites: Invites
    accounts: Accounts
    logins: Logins
    password_changes: PasswordChanges
    keys: ApiKeys
    audit: Audit
    after_checks: DeferredWrites
    vault: Vault
    kek_rotation: KekRotation
    delegations: Delegations
    deletions: Deletions


def subscribe(broker: NatsBroker, auth: Auth) -> None:
    """Let the broker answer every question to auth."""
    # more than may run and wait, so that the next is refused at once instead of waiting unseen
    password_workers = auth.settings.hashes_at_once + auth.settings.hashes_waiting + CONCURRENT

    @broker.subscriber(PING[SERVICE].subject, queue=SERVICE)
    async def ping(_: Empty) -> Health:
        return Health(
            version=__version__,
            worker=auth.settings.worker_id,
            components={"database": auth.watch.healthy},
        )

    @broker.subscriber(PUBLIC_KEYS.subject, queue=SERVICE)
    async def public_keys(_: PublicKeysQuestion) -> PublicKeys:
        return PublicKeys(jwks=auth.signing.jwks, sealing_key=auth.sealing.public_text)

    @broker.subscriber(REGISTER.subject, queue=SERVICE, max_workers=password_workers)
    async def register(question: Register) -> UserRow:
        password = auth.sealing.open(question.password, REGISTER)
        return await auth.accounts.register(
            email=question.email, name=question.name, password=password, invite_sha256=question.invite_sha256
        )

    @broker.subscriber(LOGIN.subject, queue=SERVICE, max_workers=password_workers)
    async def login(question: Login) -> TokenPair:
        answer_key = read_answer_key(question.answer_key)
        password = auth.sealing.open(question.password, LOGIN)
        with counted(LOGINS):
            proven = await auth.accounts.authenticate(email=question.email, password=password, address=question.address)
            tokens = await auth.logins.start(proven)
        return TokenPair(tokens=seal_answer(tokens.model_dump_json().encode(), answer_key, LOGIN))

    @broker.subscriber(REFRESH.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def refresh(question: Refresh) -> TokenPair:
        answer_key = read_answer_key(question.answer_key)
        token = auth.sealing.open(question.refresh_token, REFRESH)
        tokens = await auth.logins.refresh(_text(token))
        return TokenPair(tokens=seal_answer(tokens.model_dump_json().encode(), answer_key, REFRESH))

    @broker.subscriber(GET_ACCOUNT.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def get_account(question: GetAccount) -> Account:
        user = await auth.accounts.get(question.user_id)
        active_keys = await auth.keys.count_active(user.id)
        return Account(**user.model_dump(exclude={"is_active"}), active_keys=active_keys)

    @broker.subscriber(END_LOGINS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def end_logins(question: EndLogins) -> Empty:
        if question.login_id is None:
            await auth.logins.end_every(question.user_id)
        else:
            await auth.logins.end(question.user_id, question.login_id)
        return Empty()

    @broker.subscriber(CHANGE_PASSWORD.subject, queue=SERVICE, max_workers=password_workers)
    async def change_password(question: ChangePassword) -> Empty:
        asked = PasswordChange.model_validate_json(auth.sealing.open(question.passwords, CHANGE_PASSWORD))
        await auth.password_changes.change(
            user_id=question.user_id,
            login_id=question.login_id,
            current=asked.current_password,
            new=asked.new_password,
            address=question.address,
        )
        return Empty()

    @broker.subscriber(RESET_PASSWORD.subject, queue=SERVICE, max_workers=password_workers)
    async def reset_password(question: ResetPassword) -> Empty:
        asked = PasswordReset.model_validate_json(auth.sealing.open(question.reset, RESET_PASSWORD))
        await auth.password_changes.reset(token=asked.token, new=asked.new_password)
        return Empty()

    @broker.subscriber(CREATE_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def create_key(question: CreateKey) -> KeyRow:
        return await auth.keys.create(question)

    @broker.subscriber(LIST_KEYS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def list_keys(question: ListKeys) -> KeyRows:
        return KeyRows(keys=await auth.keys.list_of(question.user_id))

    @broker.subscriber(GET_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def get_key(question: GetKey) -> KeyRow:
        return await auth.keys.get(user_id=question.user_id, key_id=question.key_id)

    @broker.subscriber(CHANGE_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def change_key(question: ChangeKey) -> KeyRow:
        return await auth.keys.change(question)

    @broker.subscriber(ROTATE_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def rotate_key(question: RotateKey) -> RotatedKey:
        return await auth.keys.rotate(question)

    @broker.subscriber(DEACTIVATE_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def deactivate_key(question: DeactivateKey) -> KeyRow:
        return await auth.keys.deactivate(user_id=question.user_id, key_id=question.key_id)

    @broker.subscriber(CHECK_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def check_key(question: CheckKey) -> Caller:
        with counted(KEY_CHECKS):
            return await auth.keys.check(question.sha256)

    @broker.subscriber(ENDED_KEYS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def ended_keys(question: KeyIds) -> KeyIds:
        return KeyIds(key_ids=await auth.keys.ended(question.key_ids))

    @broker.subscriber(CHECK_TOKEN.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def check_token(question: CheckToken) -> Caller:
        return await auth.logins.check(user_id=question.user_id, login_id=question.login_id)

    @broker.subscriber(STORE_PRIVATE_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def store_private_key(question: StorePrivateKey) -> PrivateKeyStatus:
        private_key = auth.sealing.open(question.private_key, STORE_PRIVATE_KEY)
        return await auth.vault.store(user_id=question.user_id, private_key=private_key)

    @broker.subscriber(PRIVATE_KEY_STATUS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def private_key_status(question: PrivateKeyOf) -> PrivateKeyStatus:
        return await auth.vault.status(question.user_id)

    @broker.subscriber(DELETE_PRIVATE_KEY.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def delete_private_key(question: PrivateKeyOf) -> PrivateKeyDeleted:
        return await auth.vault.delete(question.user_id)

    # each computes for 10 ms, in a thread of its own
    @broker.subscriber(STORE_DELEGATION.subject, queue=SERVICE, max_workers=DELEGATIONS_AT_ONCE)
    async def store_delegation(question: StoreDelegation) -> DelegationRow:
        return await auth.delegations.store(question)

    @broker.subscriber(LIST_DELEGATIONS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def list_delegations(question: ListDelegations) -> DelegationRows:
        rows = await auth.delegations.list_of(question.user_id, skip=question.skip, limit=question.limit)
        return DelegationRows(delegations=rows)

    @broker.subscriber(ACTIVE_DELEGATION.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def active_delegation(question: ActiveDelegationQuestion) -> ActiveDelegation:
        return ActiveDelegation(delegation=await auth.delegations.active_of(question.user_id))

    @broker.subscriber(DELETE_DELEGATION.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def delete_delegation(question: DeleteDelegation) -> Empty:
        await auth.delegations.delete(user_id=question.user_id, delegation_id=question.delegation_id)
        return Empty()

    @broker.subscriber(DELETE_ACCOUNT.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def delete_account(command: DeleteAccount) -> AccountDeletion:
        return await auth.deletions.delete(command)

    @broker.subscriber(GET_DELETION.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def get_deletion(question: GetDeletion) -> AccountDeletion:
        return await auth.deletions.status(question.token_sha256)


def _text(refresh_token: bytes) -> str:
    try:
        return refresh_token.decode("ascii")
    except UnicodeDecodeError:
        raise ApiError("invalid_refresh_token") from None


async def build(settings: AuthSettings, service: StoreService, keyring: Keyring) -> Auth:
    """Put the parts together, as soon as the keyring's provider answers. Raises `KeyringError` if it is not the one that
    is in use.
    """
    signing = SigningKeys()
    rotation = KeyRotation(keyring, signing, token_lifetime=settings.access_token_seconds)

    async def load() -> tuple[SealingKey, Audit]:
        # says at start what is wrong with a key that nothing has been wrapped with yet
        await keyring.versions()
        await rotation.load(utc_now)
        sealing = await load_sealing_key(keyring, utc_now)
        return sealing, Audit(service.client, await load_audit_keys(keyring, utc_now))

    sealing, audit = await until_it_works("key encryption", load, errors=(ProviderAway,))
    await audit.begin()
    passwords = Passwords(
        passes=settings.argon2_passes,
        memory_kib=settings.argon2_memory_kib,
        lanes=settings.argon2_lanes,
        at_once=settings.hashes_at_once,
        waiting=settings.hashes_waiting,
    )
    HASHES_WAITING.set_function(lambda: passwords.waiting)
    access_tokens = AccessTokens(
        keys=signing,
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        lifetime=settings.access_token_seconds,
    )
    after_checks = DeferredWrites(ApiKeyDocument.get_pymongo_collection)
    hashes = KeyedHashes(settings.peppers)
    invites = Invites(audit, hashes, settings.registration)
    throttle = LoginThrottle(
        hashes=hashes,
        limit=settings.failed_logins,
        window=settings.failed_login_seconds,
        wait=settings.login_wait_seconds,
        clock=utc_now,
    )
    accounts = Accounts(
        audit=audit,
        invites=invites,
        throttle=throttle,
        passwords=passwords,
        clock=utc_now,
        staged=service.relay.nudge,
    )
    logins = Logins(
        client=service.client,
        audit=audit,
        access_tokens=access_tokens,
        refresh_lifetime=timedelta(seconds=settings.refresh_token_seconds),
        login_lifetime=timedelta(seconds=settings.login_seconds),
        clock=utc_now,
    )
    delegations = Delegations(
        audit=audit,
        rules=DelegationRules(
            delegate=settings.delegate_address,
            chain_id=settings.chain_id,
            manager=settings.delegation_manager_address,
            allow_unrestricted=settings.allow_unrestricted_delegations,
        ),
        most=settings.max_delegations,
        clock=utc_now,
        staged=service.relay.nudge,
    )
    vault = Vault(
        audit=audit,
        keyring=keyring,
        refuse_development_keys=settings.environment is Environment.PRODUCTION,
        clock=utc_now,
        staged=service.relay.nudge,
    )
    return Auth(
        settings=settings,
        watch=service.watch,
        signing=signing,
        rotation=rotation,
        sealing=sealing,
        invites=invites,
        accounts=accounts,
        logins=logins,
        password_changes=PasswordChanges(audit=audit, hashes=hashes, passwords=passwords, accounts=accounts),
        keys=ApiKeys(
            audit=audit,
            peppers=settings.peppers,
            max_active=settings.max_active_keys,
            clock=utc_now,
            staged=service.relay.nudge,
            after_checks=after_checks,
        ),
        audit=audit,
        after_checks=after_checks,
        vault=vault,
        kek_rotation=KekRotation(keyring),
        delegations=delegations,
        deletions=Deletions(
            audit,
            RpcClient(raw_connection(service.broker)),
            service.leases,
            parts_of(delegations, vault),
            clock=utc_now,
            staged=service.relay.nudge,
        ),
    )


@asynccontextmanager
async def serve(settings: AuthSettings, standing: Standing | None = None) -> AsyncIterator[None]:
    """Answer questions while the block runs."""
    async with (
        open_keyring(settings) as keyring,
        store_service(settings, SERVICE, DOCUMENTS, standing, MIGRATIONS) as service,
    ):
        auth = await build(settings, service, keyring)
        subscribe(service.broker, auth)
        subscribe_operator(
            service.broker,
            audit=auth.audit,
            invites=auth.invites,
            password_changes=auth.password_changes,
            rotation=auth.rotation,
            kek_rotation=auth.kek_rotation,
        )
        async with (
            background(
                auth.rotation.keep_fresh(),
                auth.after_checks.run(),
                auth.deletions.run(),
                measure_deletions(),
                measure_key_encryption(keyring),
            ),
            service.answering(),
        ):
            yield
        await auth.after_checks.write()
