"""What OpenAPI shows as examples. Each works against the development stack; `<…>` stands for a value that only the reader has."""

from typing import Any

from pydantic import ConfigDict

MODEL = "llama-3.3-70b"
EMBEDDING_MODEL = "text-embedding-bge-m3"
MODEL_ID = "0x6731516f0e1c569e8b1ad59860a857b2d950d62e2feece6363ab68fff0aafae5"
BID_ID = "0xa040203a3280c61deee991ff743d7cfe46865158ff01feb97bcc5311b7190a25"
UUID = "019a7c1e-8f00-7abc-8def-0123456789ab"
EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"  # noqa: S105 - everybody's
DELEGATE = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
"""The address that delegations to the development stack name."""

LOGIN = {"email": EMAIL, "password": PASSWORD}
DELEGATION = {
    "delegate_address": DELEGATE,
    "signed_delegation_data": {
        "delegate": DELEGATE,
        "delegator": "0x" + "5a" * 20,
        "authority": "0x" + "ff" * 32,
        "caveats": [{"enforcer": "0x" + "ab" * 20, "terms": "0x01", "args": "0x"}],
        "salt": "0x01",
        "signature": "0x" + "11" * 65,
    },
}


def example(*values: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a body's model that gives it these examples; the first is the one to begin with."""
    return ConfigDict(json_schema_extra={"examples": list(values)})
