import pytest
from morpheus_sessions.router_calls import CALLS, OTHER, READ_FROM_CHAIN, call_of

ID = "0x" + "ab" * 32


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/wallet", "identity"),
        (f"/blockchain/sessions/{ID}", "session"),
        ("/blockchain/sessions", "open"),
        (f"/blockchain/sessions/{ID}/close", "close"),
        (f"/blockchain/approve?spender={ID}&amount=1", "approve"),
        (f"/blockchain/providers/{ID}/bids/active", "market"),
        ("/something/new", OTHER),
    ],
)
def test_a_path_has_one_of_few_names_whatever_ids_are_in_it(path: str, call: str) -> None:
    """C49."""
    assert call_of(path) == call
    assert call in CALLS


def test_what_reads_the_chain_is_among_the_calls() -> None:
    assert set(CALLS) >= READ_FROM_CHAIN
    assert not READ_FROM_CHAIN & {"identity", "initiate", "open", "close", "approve"}
