"""In which order the documentation's examples are run, and what each takes from the answer of an earlier one.

A new endpoint is a row here; without it `tests/unit/site_pages/test_snippets.py` fails and says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from morpheus_site.generated.snippets import Snippet


@dataclass(frozen=True)
class Step:
    """One example. `keeps`: variable → where it is in the answer's JSON, `data.0.id`; of an address, its last part.

    `first`: variables that are set before it is run, from others or (`RESET_TOKEN`, `OPERATION_ID`) by the house.
    """

    operation: str
    example: str = "only"
    status: int = 200
    keeps: Mapping[str, str] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.operation}.{self.example}"


FROM_DATABASE = "the operation that opened the session, as our record has it"
FROM_OPERATOR = "what `morpheus admin reset-link` prints"

_TOKENS = {"ACCESS_TOKEN": "access_token", "REFRESH_TOKEN": "refresh_token"}
_ONE = "example-1"
_TWO = "example-2"

LIFE = (
    # who one is
    Step("register_user", _ONE, 201),
    Step("login", _ONE, keeps=_TOKENS),
    Step("get_account"),
    Step("refresh_token", _ONE, keeps=_TOKENS),
    # what is here
    Step("root"),
    Step("get_signing_keys"),
    Step("health_check"),
    Step("liveness_check"),
    Step("readiness_check"),
    # keys
    Step("create_api_key", _ONE, 201, keeps={"API_KEY": "key", "KEY_ID": "id"}),
    Step("create_api_key", _TWO, 201),
    Step("get_api_keys"),
    Step("get_current_api_key"),
    Step("change_api_key", _ONE),
    Step("rotate_api_key", _ONE, keeps={"API_KEY": "key"}),
    # models
    Step("list_models"),
    Step("list_all_models", keeps={"MODEL_ID": "data.0.blockchainID"}),
    Step("get_rated_bids"),
    Step("get_model"),
    # sessions and prompts
    Step("get_automation_settings"),
    Step("update_automation_settings", _ONE),
    Step("approve_spending"),
    Step("quote_session", keeps={"BID_ID": "bid_id"}),
    Step("create_bid_session", _ONE),
    Step("get_session"),
    Step("create_chat_completion", _ONE),
    Step("create_chat_completion", _TWO),
    Step("create_embeddings", _ONE),
    Step("create_model_session", _ONE),
    Step("ping_session"),
    Step("list_sessions"),
    Step("get_operation", first={"OPERATION_ID": FROM_DATABASE}),
    Step("list_automation_decisions"),
    Step("get_usage"),
    Step("close_session"),
    # what is stored for others
    Step("store_private_key", _ONE, 201),
    Step("get_private_key_status"),
    Step("delete_private_key"),
    Step("store_delegation", _ONE, 201, keeps={"DELEGATION_ID": "id"}),
    Step("get_user_delegations"),
    Step("get_active_user_delegation"),
    Step("delete_delegation", status=204),
    # the end of a key, of a password, of logins
    Step("delete_api_key"),
    Step("change_password", _ONE, 204),
    Step("logout", _ONE, 204),
    Step("reset_password", _ONE, 204, first={"RESET_TOKEN": FROM_OPERATOR}),
    # a session that the account leaves behind
    Step("login", _ONE, keeps=_TOKENS, first={"PASSWORD": "NEW_PASSWORD"}),
    Step("create_api_key", _ONE, 201, keeps={"API_KEY": "key", "KEY_ID": "id"}),
    Step("create_model_session", _ONE),
)
DELETION = (Step("delete_user_account", status=202, keeps={"DELETION_TOKEN": "status_url"}),)
"""While no session can be closed on chain: else the answer is 200, and there is no address to ask at."""
AFTERWARDS = (Step("get_account_deletion"),)

STORY = (*LIFE, *DELETION, *AFTERWARDS)


def without_a_place(snippets: Iterable[Snippet]) -> list[str]:
    """Return the examples that no step runs, and the steps for which there is no example."""
    told = {step.name for step in STORY}
    there = {f"{snippet.operation}.{snippet.example}" for snippet in snippets}
    missing = [f"{name}: give it a place in tests/clients/snippet_story.py" for name in sorted(there - told)]
    return missing + [f"{name}: there is no such example" for name in sorted(told - there)]
