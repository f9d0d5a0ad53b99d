"""Passwords and tokens on the bus: sealed to auth on the way there, to this one request on the way back."""

from collections.abc import Callable
from typing import TypeVar

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.auth import TokenPair
from morpheus_common.contracts.base import Message, Rpc
from morpheus_common.errors import ApiError
from morpheus_common.request_context import request_id
from morpheus_common.sealing import Sealed, public_key_to_text, seal, unseal

from morpheus_gateway.public_keys import PublicKeys

Question = TypeVar("Question", bound=Message)
Answer = TypeVar("Answer", bound=Message)


class SecretsChannel:
    """Asks auth what holds a secret. Everything is bound to the RPC's subject and the request's id."""

    def __init__(self, rpc: RpcClient, keys: PublicKeys) -> None:
        self._rpc = rpc
        self._keys = keys

    async def ask(self, rpc: Rpc[Question, Answer], secret: str, make_question: Callable[[Sealed], Question]) -> Answer:
        """Send a question with one sealed secret in it; raises what `RpcClient.call` raises."""
        reader = await self._keys.sealing_key()
        for last in (False, True):
            sealed = seal(secret.encode(), reader, subject=rpc.subject, request_id=_current_request())
            try:
                return await self._rpc.call(rpc, make_question(sealed))
            except ApiError as error:
                # auth says this when it could not open the seal: it may have another key by now
                if last or error.code != "service_unavailable":
                    raise
                await self._keys.renew()
                renewed = await self._keys.sealing_key()
                if renewed.public_bytes_raw() == reader.public_bytes_raw():
                    raise
                reader = renewed
        raise AssertionError

    async def ask_for_tokens(
        self, rpc: Rpc[Question, TokenPair], secret: str, make_question: Callable[[Sealed, str], Question]
    ) -> dict[str, str | int]:
        """Send a sealed secret and return the tokens that come back, sealed to a key that lives for this call only."""
        private = X25519PrivateKey.generate()
        answer_key = public_key_to_text(private.public_key())
        pair = await self.ask(rpc, secret, lambda sealed: make_question(sealed, answer_key))
        opened = unseal(pair.tokens, private, subject=rpc.subject, request_id=_current_request())
        tokens: dict[str, str | int] = orjson.loads(opened)
        return tokens


def _current_request() -> str:
    current = request_id.get()
    if current is None:
        msg = "a secret is bound to a request, and there is none"
        raise RuntimeError(msg)
    return current
