"""What holds a figure back that misses its bar, one line each, by the finding's name. Kept by hand: look, then write.

A line stands in the report only while its figure misses; one that is met again can be taken out here.
"""

_TWO_PROCESSES = (
    "a prompt passes two processes and the bus twice, about 90 µs for the two ends of a message, and its key, its limits and its "
    "use are looked after; the floor is one process that looks after nothing"
)
HELD_BACK: dict[str, str] = {
    "latency_p50_floor": _TWO_PROCESSES,
    "latency_p50_portkey": "as above, beside one process of Node",
    "latency_p50_litellm": "a prompt of LiteLLM's took a tenth here of what it took when the bar was set (51 ms)",
    "latency_p99_floor": "what workers write in the background once a second takes its turn on the same two cores",
    "first_byte_floor": _TWO_PROCESSES,
    "requests_litellm": "LiteLLM takes a tenth here of the time it took when the bar was set",
    "chunks_floor": "each chunk is read as JSON, so that a broken answer is known from a whole one, and passes two processes",
    "caller_first_byte": "a prompt whose caller has to be asked for goes without credit at its start: three messages more",
    "writes": "at most 20 bulk writes of busy marks, and beside them the transaction that records use once a second, its event and leases",
}
UNKNOWN = "not looked into yet"
