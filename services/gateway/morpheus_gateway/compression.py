"""gzip for what is made once and read by many: lists of models, pages, the OpenAPI document.

Never for what is made for one caller: an answer's length tells of a secret in it when a stranger chose the text beside it
(BREACH), and packing costs more CPU than all that the gateway does for a prompt. Never for streams, which would wait in the
packer.
"""

import gzip

_WORTH_BYTES = 1_024
"""Less than this fits into one packet as it is."""
_MARK = '-gzip"'


def packed(body: bytes) -> bytes | None:
    """Return a body as gzip has it, None if that is not worth it. 31 ms of CPU a megabyte (measured): not for the event loop."""
    if len(body) < _WORTH_BYTES:
        return None
    # no time in it: the same body is the same bytes in every process, as its entity tag says
    smaller = gzip.compress(body, mtime=0)
    return smaller if len(smaller) < len(body) else None


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether a client names gzip in its Accept-Encoding; `*` does not."""
    for part in accept_encoding.lower().split(","):
        coding, _, parameter = part.partition(";")
        if coding.strip() == "gzip":
            name, _, value = parameter.partition("=")
            return name.strip() != "q" or value.strip().strip("0.") != ""
    return False


def packed_tag(etag: str) -> str:
    """Return the entity tag of the packed form: other bytes, another (strong) tag (RFC 9110, 8.8.3.3)."""
    return etag.removesuffix('"') + _MARK


def unpacked_tag(etag: str) -> str:
    """Return the tag of the form that is not packed, of a tag of either form: who has one has what is in both."""
    return etag.removesuffix(_MARK) + '"' if etag.endswith(_MARK) else etag
