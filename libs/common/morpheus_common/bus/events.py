"""Events as CloudEvents 1.0 in binary mode: attributes in headers, the payload as the body."""

from datetime import datetime

from morpheus_common.bus.names import Header


def event_headers(
    subject: str,
    *,
    event_id: str,
    entity_id: str,
    version: int,
    time: datetime,
    request_id: str | None,
    traceparent: str | None,
) -> dict[str, str]:
    """Return the headers of one event. `subject` says what it is: an event is published by whatever version of a service
    runs, also one that does not know its type. `version` counts the entity's changes without gaps and travels as
    `ce-sequence`; `Nats-Msg-Id` lets the server drop a repeat.
    """
    ce_type = subject.removeprefix("evt.")
    headers = {
        Header.MESSAGE_ID: event_id,
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": f"/morpheus/{ce_type.partition('.')[0]}",
        "ce-type": ce_type,
        "ce-time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "ce-subject": entity_id,
        "ce-sequence": str(version),
        "content-type": "application/json",
    }
    if request_id is not None:
        headers[Header.REQUEST_ID] = request_id
    if traceparent is not None:
        headers[Header.TRACEPARENT] = traceparent
    return headers
