"""What a check would complain of and why it is right all the same."""

import re
from dataclasses import dataclass

from tests.fuzz.answers import Answer


@dataclass(frozen=True)
class Refusal:
    """Requests that fit the document and are refused: by which operations, with which code about which parameters."""

    operations: str
    code: str
    params: str
    why: str

    def covers(self, label: str, answer: Answer) -> bool:
        error = answer.error
        return (
            error is not None
            and error["code"] == self.code
            and re.fullmatch(self.operations, label) is not None
            and re.fullmatch(self.params, error["param"] or "") is not None
        )


REFUSALS = (
    Refusal("POST /api/v1/auth/register", "validation_error", "email", "what an e-mail address is, no pattern can say"),
    Refusal(
        "POST /api/v1/auth/.*", "password_too_common", ".*", "the list of common passwords is no part of the document"
    ),
    Refusal(
        "POST /api/v1/auth/private-key", "validation_error", "private_key", "a key is a number below the curve's order"
    ),
    Refusal(
        "POST /api/v1/auth/delegation", "validation_error", ".*", "EIP-55, EIP-712 and this gateway's address decide"
    ),
    Refusal(
        "POST /api/v1/auth/delegation", "delegation_unrestricted", ".*", "what no caveats mean depends on a setting"
    ),
    Refusal("(POST|PATCH) /api/v1/auth/keys.*", "validation_error", "expires_at", "it has to be in the future"),
    Refusal(".* /api/v1/session/.*", "validation_error", "duration|sessionDuration", "the longest is a setting"),
    Refusal(
        "GET /api/v1/session/quote", "validation_error", "model_id", "exactly one of model_id and bid_id is wanted"
    ),
    Refusal("GET /api/v1/usage", "validation_error", "from|to", "days and times of the calendar, in their order"),
    Refusal(
        "POST /api/v1/session/.*", "idempotency_key_reused", ".*", "the same key as another request before, by chance"
    ),
    Refusal(
        "POST /api/v1/session/.*", "model_type_mismatch", "model_id|bid_id", "of what type a model is, the market says"
    ),
    Refusal("POST /api/v1/session/.*", "direct_payment_unsupported", ".*", "a deployment decides it"),
    Refusal(
        "POST /api/v1/(chat/completions|embeddings)", "model_type_mismatch", ".*", "the model in use is of another type"
    ),
    Refusal(
        "POST /api/v1/(chat/completions|embeddings)",
        "invalid_value",
        "model",
        "session_id names a session of another model",
    ),
    Refusal("POST /api/v1/(chat/completions|embeddings)", "provider_rejected", ".*", "the provider decides"),
)

OF_THE_MARKET = frozenset({"model_not_found", "bid_not_found"})
"""Codes of a 404 that say nothing of the object in the path: a body or query named something that is not on offer."""

KEPT = {
    "DELETE /api/v1/auth/keys/{key_id}": "a key that was deactivated stays in the list, and deactivating it again is no error",
}
"""Operations that answer as before for an object that was deleted, and why."""

UNREACHED = {
    "GET /api/v1/auth/deletions/{token}": "its token is told only by a deletion that waits for the chain (tests/e2e/test_deletion.py)",
}
"""Operations that good data never reached, and why."""

SHADOWED = {
    "GET /api/v1/auth/keys/current": "`/auth/keys/{key_id}` has the same form, and takes DELETE and PATCH",
    "GET /api/v1/auth/delegation/active": "`/auth/delegation/{delegation_id}` has the same form, and takes DELETE",
}
"""Paths whose `Allow` names methods of another row of the document."""
