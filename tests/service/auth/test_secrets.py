import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from morpheus_auth.documents import DOCUMENTS, AuditKeyDocument, SealingKeyDocument, SigningKeyDocument
from morpheus_auth.key_encryption import LocalKeyEncryption
from morpheus_auth.settings import AuthSettings
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database, init_documents

from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, Operator, answered_by, dump, new_key, process, until, wiretap

PLANTED = "a planted password"
CHANGED = "a planted new password"
RESET = "a planted password of a reset"
WRONG = "a planted wrong password"


async def test_no_secret_is_on_the_bus_in_the_database_or_in_a_log(
    settings: AuthSettings, database: Database, nats_streams: NatsAccount, operator: Operator, tmp_path: Path
) -> None:
    """C2, C39."""
    await init_documents(database, DOCUMENTS)
    key, log = new_key(), tmp_path / "log"
    async with wiretap(settings.nats_url) as bus:
        connection = await replace(nats_streams, url=f"nats://{bus.address}").connect(User.GATEWAY)
        gateway = Gateway(RpcClient(connection))
        async with process(settings.model_copy(update={"nats_url": f"nats://{bus.address}"}), "a", log) as worker:
            await until(answered_by(gateway, "a"))
            user = await gateway.register("ada@example.com", PLANTED)
            tokens = await gateway.login("ada@example.com", PLANTED)
            refreshed = await gateway.refresh(tokens.refresh_token)
            with pytest.raises(ApiError, match="invalid_credentials"):
                await gateway.login("ada@example.com", WRONG)
            await gateway.create_key(user.id, key)
            await gateway.check_key(key)
            await gateway.change_password(tokens, PLANTED, CHANGED)
            token = await operator.reset_token("ada@example.com")
            await gateway.reset_password(token, RESET)
            code = await operator.invite()
            await gateway.register("eve@example.com", PLANTED, invite_code=code)
            worker.terminate()
            await worker.wait()
        await connection.close()
    private_keys = [
        await LocalKeyEncryption(settings.keyring).unwrap(document.private_key, record_id=document.id)
        for kind in (SigningKeyDocument, SealingKeyDocument, AuditKeyDocument)
        for document in await kind.find_all().to_list()
    ]
    traffic, stored, logged = bytes(bus.traffic), await dump(database), log.read_bytes()

    secrets = {
        "password": PLANTED.encode(),
        "wrong password": WRONG.encode(),
        "new password": CHANGED.encode(),
        "password of a reset": RESET.encode(),
        "reset token": token.encode(),
        "invite code": code.encode(),
        "first refresh token": tokens.refresh_token.encode(),
        "second refresh token": refreshed.refresh_token.encode(),
        "access token": tokens.access_token.encode(),
        "API key": key.encode(),
        "signing key": private_keys[0],
        "sealing key": private_keys[1],
        "audit key": private_keys[2],
    }
    # what is looked for could be found: other parts of the same questions are there in clear
    assert user.id.encode() in traffic
    assert user.id.encode() in stored
    assert b"ready" in logged
    assert [name for name, secret in secrets.items() if secret in traffic] == []
    assert [name for name, secret in secrets.items() if secret in stored] == []
    assert [name for name, secret in secrets.items() if secret in logged] == []
    # a key's SHA-256 travels, but is worth nothing to who has the database
    digest = hashlib.sha256(key.encode())
    assert digest.hexdigest().encode() not in stored
    assert digest.digest() not in stored
