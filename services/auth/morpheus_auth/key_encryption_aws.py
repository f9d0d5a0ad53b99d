"""Key-encryption keys in AWS KMS: they never leave it. Needs the extra `aws`.

Each record's id is in the encryption context, which KMS checks and logs. A version is a key's "key material": KMS says
which one is current and keeps the former ones for decryption.

Rights needed on the key: `kms:DescribeKey`, `kms:Encrypt`, `kms:Decrypt`, `kms:ReEncryptFrom`, `kms:ReEncryptTo`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from morpheus_common.logs import get_logger

from morpheus_auth.documents import WrappedSecret
from morpheus_auth.key_encryption import KekVersion, KeyringError, ProviderAway
from morpheus_auth.settings import AuthSettings, KekProvider

log = get_logger(__name__)

THREADS = 8
"""Calls at once; boto3 blocks. The others wait within their time limit."""
_DOES_NOT_OPEN = {"InvalidCiphertextException", "IncorrectKeyException"}


class AwsKeyEncryption:
    """`client` is boto3's for KMS, with time limits of its own; `seconds`: limit of one call, the wait included."""

    provider = KekProvider.AWS.value

    def __init__(self, client: Any, *, key: str, seconds: float) -> None:
        self._client = client
        self._key = key
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kms")

    @classmethod
    def of(cls, key: str, settings: AuthSettings) -> Self:
        """Return the provider with `key` as the settings describe it; credentials are boto3's to find."""
        seconds = settings.auth_kek_seconds
        client = boto3.client(
            "kms",
            region_name=settings.auth_kms_region,
            endpoint_url=settings.auth_kms_endpoint,
            # one try: our caller has a time limit and repeats
            config=Config(
                connect_timeout=seconds,
                read_timeout=seconds,
                retries={"total_max_attempts": 1},
                max_pool_connections=THREADS,
            ),
        )
        return cls(client, key=key, seconds=seconds)

    async def wrap(self, secret: bytes, *, record_id: str) -> WrappedSecret:
        """Let KMS encrypt. Raises `ProviderAway`."""
        # asked first: a rotation in between makes the version look older than it is, never newer
        current = (await self.versions())[0]
        answer = await self._ask(
            self._client.encrypt, KeyId=current.key, Plaintext=secret, EncryptionContext=_context(record_id)
        )
        return WrappedSecret(
            provider=self.provider, key=current.key, key_version=current.version, ciphertext=answer["CiphertextBlob"]
        )

    async def unwrap(self, wrapped: WrappedSecret, *, record_id: str) -> bytes:
        """Let KMS decrypt. Raises `ProviderAway`, `KeyringError`."""
        answer = await self._open(
            wrapped,
            record_id,
            self._client.decrypt,
            KeyId=wrapped.key,
            CiphertextBlob=wrapped.ciphertext,
            EncryptionContext=_context(record_id),
        )
        return bytes(answer["Plaintext"])

    async def rewrap(self, wrapped: WrappedSecret, *, record_id: str) -> WrappedSecret:
        """Let KMS wrap anew without showing us what. Raises `ProviderAway`, `KeyringError`."""
        current = (await self.versions())[0]
        answer = await self._open(
            wrapped,
            record_id,
            self._client.re_encrypt,
            SourceKeyId=wrapped.key,
            CiphertextBlob=wrapped.ciphertext,
            SourceEncryptionContext=_context(record_id),
            DestinationKeyId=current.key,
            DestinationEncryptionContext=_context(record_id),
        )
        return WrappedSecret(
            provider=self.provider, key=current.key, key_version=current.version, ciphertext=answer["CiphertextBlob"]
        )

    async def versions(self) -> list[KekVersion]:
        """Ask KMS for the current key material; it never tells of former ones, and never forgets them."""
        metadata = (await self._ask(self._client.describe_key, KeyId=self._key))["KeyMetadata"]
        # keys in a custom key store have one material, without a name
        return [KekVersion(self.provider, metadata["Arn"], metadata.get("CurrentKeyMaterialId", ""))]

    async def close(self) -> None:
        """Close the connections; threads end by their own time limits."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def _open(
        self, wrapped: WrappedSecret, record_id: str, call: Callable[..., dict[str, Any]], **arguments: Any
    ) -> dict[str, Any]:
        try:
            return await self._ask(call, **arguments)
        except _Refused:
            raise KeyringError(
                f"KMS does not open record {record_id}, wrapped with {wrapped.key}: another record's, or changed"
            ) from None

    async def _ask(self, call: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, **arguments))
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _DOES_NOT_OPEN:
                raise _Refused from None
            log.error("KMS refuses", problem=code)
            raise ProviderAway from None
        except (BotoCoreError, OSError) as error:
            # the latter: too late, or a file that credentials are read from is not there
            log.warning("KMS cannot be asked", problem=type(error).__name__)
            raise ProviderAway from None


class _Refused(Exception):
    """The ciphertext does not fit key and context."""


def _context(record_id: str) -> dict[str, str]:
    return {"record_id": record_id}
