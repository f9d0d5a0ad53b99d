"""Whether two versions understand each other: what one says has to fit what the other reads, and the other way round.

It compares schemas, not examples, so that no case is missed by chance; what it does not know how to compare is a problem.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

LOWEST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
HIGHEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
UNDERSTOOD = {*LOWEST, *HIGHEST, "type", "enum", "const", "format", "pattern", "items"} | {
    "properties",
    "required",
    "additionalProperties",
}
DIGITS = "^-?[0-9]+$"
"""How an amount in wei is written, which its reader, an integer to pydantic, understands."""


def differences(old: Json, new: Json) -> list[str]:
    """Return what keeps `new` from working beside `old`, a sentence each; nothing if they may meet on a bus."""
    return sorted({*_subjects(old, new), *_models(old, new), *_wire(old["wire"], new["wire"]), *_rights(old, new)})


def _subjects(old: Json, new: Json) -> Iterator[str]:
    for kind in ("rpcs", "events", "heads", "documents"):
        for name in old[kind].keys() - new[kind].keys():
            yield f"{name} is gone"
    for code in set(old["errors"]) - set(new["errors"]):
        yield f"error code {code} is gone: what the previous version answers would be taken for internal_error"
    for subject in old["rpcs"].keys() & new["rpcs"].keys():
        before, now = old["rpcs"][subject], new["rpcs"][subject]
        if before["service"] != now["service"]:
            yield f"{subject} is answered by another service"
        for caller in set(before["callers"]) - set(now["callers"]):
            yield f"{subject} may not be asked by {caller} any more"


def _models(old: Json, new: Json) -> Iterator[str]:
    for kind, parts in (("rpcs", ("question", "answer")), ("events", ("",)), ("heads", ("",)), ("documents", ("",))):
        for name in old[kind].keys() & new[kind].keys():
            for part in parts:
                before, now = old[kind][name], new[kind][name]
                if part:
                    before, now = before[part], now[part]
                where = f"{name} {part}".strip()
                forward = (new["definitions"], old["definitions"], "the new version writes")
                back = (old["definitions"], new["definitions"], "the previous version writes")
                yield from Fit(*forward).reference(now["write"], before["read"], where)
                yield from Fit(*back).reference(before["write"], now["read"], where)
                # readers of the previous version may use what they do not insist on
                yield from Fit(*forward, keeps=True).reference(now["write"], before["write"], where)
                # an amount's bounds stand only where it is read; each version writes what it would read itself
                yield from Fit(*forward).reference(now["read"], before["read"], where)
                yield from Fit(*back).reference(before["read"], now["read"], where)


def _wire(old: Json, new: Json) -> Iterator[str]:
    for kind, before in old.items():
        now = new.get(kind, {})
        for name, value in before.items():
            if now.get(name) != value:
                yield f"{kind}: {name} was {value!r} and is {now.get(name)!r}"
    for name in new["frames"].keys() - old["frames"].keys():
        yield f"frames: the previous version does not know the kind {name}"


def _rights(old: Json, new: Json) -> Iterator[str]:
    for user, before in old["permissions"].items():
        now = new["permissions"].get(user, {"publish": [], "subscribe": [], "answers": False, "never": []})
        for verb in ("publish", "subscribe"):
            for subject in before[verb]:
                if not any(covers(pattern, subject) for pattern in now[verb]):
                    yield f"{user} may not {verb} {subject} any more"
        if before["answers"] and not now["answers"]:
            yield f"{user} may not answer any more"
        for subject in set(now["never"]) - set(before["never"]):
            yield f"{user} is newly refused {subject}"


def covers(pattern: str, subject: str) -> bool:
    """Tell whether all that `subject` (it may have wildcards) stands for is allowed by `pattern`."""
    allowed, wanted = pattern.split("."), subject.split(".")
    for place, token in enumerate(allowed):
        if token == ">":
            return len(wanted) > place
        if place >= len(wanted) or wanted[place] == ">" or token not in {"*", wanted[place]}:
            return False
    return len(allowed) == len(wanted)


@dataclass
class Fit:
    """Whether whatever is written by one set of definitions is read by another.

    `keeps`: no field may have gone, whether its reader insists on it or not.
    """

    written: Json
    read: Json
    who: str
    keeps: bool = False
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def reference(self, written: str, read: str, where: str) -> Iterator[str]:
        """Compare two definitions by their names; a model that holds itself ends here."""
        if (written, read) not in self._seen:
            self._seen.add((written, read))
            yield from self.schema(self.written[written], self.read[read], where)

    def schema(self, written: Json, read: Json, where: str) -> Iterator[str]:
        """Say what of `written` does not fit `read`."""
        if "$ref" in written and "$ref" in read:
            yield from self.reference(written["$ref"], read["$ref"], where)
        elif "$ref" in written:
            yield from self.schema(self.written[written["$ref"]], read, where)
        elif "$ref" in read:
            yield from self.schema(written, self.read[read["$ref"]], where)
        elif "anyOf" in written:
            for choice in written["anyOf"]:
                yield from self.schema(choice, read, where)
        elif "anyOf" in read:
            yield from self._any_of(written, read["anyOf"], where)
        elif read:
            yield from self._plain(written, read, where)

    def _any_of(self, written: Json, choices: list[Json], where: str) -> Iterator[str]:
        found = []
        for choice in choices:
            # what was seen on the way into one choice says nothing of the next
            attempt = Fit(self.written, self.read, self.who, self.keeps, set(self._seen))
            problems = list(attempt.schema(written, choice, where))
            if not problems:
                return
            found.append(problems)
        yield from min(found, key=len)

    def _plain(self, written: Json, read: Json, where: str) -> Iterator[str]:
        for word in (written.keys() | read.keys()) - UNDERSTOOD:
            yield f"{where}: {word} cannot be compared"
        if _is_amount(written) and read.get("type") == "integer":
            return
        if "type" in read and written.get("type") not in _types_read(read["type"]):
            yield f"{where}: {self.who} {written.get('type', 'anything')}, {read['type']} is read"
            return
        yield from self._values(written, read, where)
        if read.get("type") == "array" and "items" in read:
            yield from self.schema(written.get("items", {}), read["items"], f"{where}[]")
        if read.get("type") == "object":
            yield from self._object(written, read, where)

    def _values(self, written: Json, read: Json, where: str) -> Iterator[str]:
        allowed = _choices(read)
        if allowed is not None:
            said = _choices(written)
            for value in ("anything",) if said is None else [value for value in said if value not in allowed]:
                yield f"{where}: {self.who} {value!r}, which is not read"
        for word in ("format", "pattern"):
            if word in read and written.get(word) != read[word] and allowed is None:
                yield f"{where}: {self.who} the {word} {written.get(word)}, {read[word]} is read"
        for words, wider in ((LOWEST, False), (HIGHEST, True)):
            for word in words:
                if word in read and (
                    word not in written or (written[word] > read[word] if wider else written[word] < read[word])
                ):
                    yield f"{where}: {self.who} beyond {word} {read[word]}"

    def _object(self, written: Json, read: Json, where: str) -> Iterator[str]:
        said, understood = written.get("properties", {}), read.get("properties", {})
        for name in set(read.get("required", ())) - set(written.get("required", ())):
            yield f"{where}.{name}: {self.who} nothing there, and it is required"
        for name in understood.keys() - said.keys() if self.keeps else ():
            yield f"{where}.{name} is gone"
        for name in said.keys() & understood.keys():
            yield from self.schema(said[name], understood[name], f"{where}.{name}")
        others = read.get("additionalProperties", {})
        if others is False:
            yield from (f"{where}.{name}: is refused" for name in said.keys() - understood.keys())
        elif others and others is not True:
            for name in said.keys() - understood.keys():
                yield from self.schema(said[name], others, f"{where}.{name}")
            if not said or "additionalProperties" in written:
                more = written.get("additionalProperties", {})
                yield from self.schema({} if more is True else more, others, f"{where}.*")


def _is_amount(written: Json) -> bool:
    return written == {"type": "string", "pattern": DIGITS}


def _types_read(wanted: str) -> set[str]:
    return {"number", "integer"} if wanted == "number" else {wanted}


def _choices(schema: Json) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    choices: list[Any] | None = schema.get("enum")
    return choices
