"""Private keys of the service itself: made once, by whichever process comes first, and shared by all."""

from collections.abc import Callable

from morpheus_common.clock import Clock
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from pymongo.errors import DuplicateKeyError

from morpheus_auth.documents import ServiceKeyDocument
from morpheus_auth.keyring import Keyring

log = get_logger(__name__)

FIRST_GENERATION = 1


async def load_or_create(
    kind: type[ServiceKeyDocument], keyring: Keyring, generate: Callable[[], bytes], clock: Clock
) -> dict[str, bytes]:
    """Return all keys of a kind, raw private bytes by id, newest first; make the first one if there is none.

    Raises `KeyringError`, `ProviderAway`.
    """
    documents = await find_or_create(kind, keyring, generate, clock)
    return {document.id: await keyring.unwrap(document.private_key, record_id=document.id) for document in documents}


async def find_or_create(
    kind: type[ServiceKeyDocument], keyring: Keyring, generate: Callable[[], bytes], clock: Clock
) -> list[ServiceKeyDocument]:
    """Return all keys of a kind as they are stored, newest first; make the first one if there is none.

    Raises `KeyringError`, `ProviderAway`.
    """
    documents = await kind.find().sort("-generation").to_list()
    if not documents:
        key_id = uuid7()
        wrapped = await keyring.wrap(generate(), record_id=key_id)
        try:
            await kind(id=key_id, generation=FIRST_GENERATION, private_key=wrapped, created_at=clock()).insert()
        except DuplicateKeyError:
            log.info("another process made the first key", collection=kind.get_collection_name())
        documents = await kind.find().sort("-generation").to_list()
    return documents
