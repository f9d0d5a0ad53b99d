"""Times as clients write them."""

from datetime import UTC, datetime

import pytest
from morpheus_gateway.times import Moment
from pydantic import TypeAdapter, ValidationError

MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


def test_a_time_with_its_zone_is_taken_and_is_utc_from_then_on() -> None:
    assert MOMENT.validate_json('"2026-11-27T09:00:00.5+01:00"') == datetime(2026, 11, 27, 8, 0, 0, 500_000, UTC)
    assert MOMENT.validate_json('"2026-11-27t08:00:00z"').tzinfo is UTC


@pytest.mark.parametrize(
    "told",
    [
        *("4000000000", "4000000000.5", "true", "null", "[]", '{"$gt": ""}'),
        *('"4000000000"', '"2099-01-01"', '"2099-01-01T00:00:00"', '"2099-01-01 00:00:00Z"', '"2099-01-01T00:00Z"'),
        *(
            '"2099-02-30T00:00:00Z"',
            '"2099-01-01T25:00:00Z"',
            '"9999-12-31T23:59:59-23:59"',
            '"0001-01-01T00:00:00+23:59"',
        ),
    ],
)
def test_a_number_or_what_is_no_time_in_utc_is_refused(told: str) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_json(told)
