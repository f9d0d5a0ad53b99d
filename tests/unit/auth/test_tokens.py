import pytest
from cryptography.exceptions import InvalidTag
from morpheus_auth.tokens import Tokens, digest_of, open_for_token, seal_for_token

ANSWER = Tokens(access_token="access", refresh_token="refresh", expires_in=1800)


def test_only_the_spent_token_opens_the_answer_it_got() -> None:
    sealed = seal_for_token(ANSWER, "rt-spent")
    assert open_for_token(sealed, "rt-spent") == ANSWER
    with pytest.raises(InvalidTag):
        open_for_token(sealed, "rt-other")


def test_what_is_stored_of_a_token_gives_neither_token_nor_answer() -> None:
    sealed = seal_for_token(ANSWER, "rt-spent")
    assert b"refresh" not in sealed
    assert b"access" not in sealed
    with pytest.raises(InvalidTag):
        open_for_token(sealed, digest_of("rt-spent"))
