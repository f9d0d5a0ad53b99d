"""JSON Schema as tables for people, and a value that fits one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from morpheus_site.generated.text import code

Json = dict[str, Any]

DEPTH = 4
"""How far into a value its fields are shown."""

TIME = "2026-11-27T08:00:00.000Z"
UUID = "019a7c1e-8f00-7abc-8def-0123456789ab"
CHAIN_ID = "0x" + "5e" * 32
"""What stands for every time and id in an example."""
_WEI = "1500000000000000000"
_WORDS = {"email": "ada@example.com", "name": "laptop", "key_prefix": "sk-Ab12Cd", "router": "router-1"}
"""Strings that say more than a word for their name would."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field as a table shows it. `name` has the way to it: `groups[].tokens`."""

    name: str
    type: str
    required: bool
    limits: str
    words: str
    description: str


@dataclass(frozen=True, slots=True)
class Schemas:
    """The schemas of a document, by which references are followed."""

    components: Json

    def follow(self, schema: Json) -> Json:
        """Return the schema that is meant, with what stands beside the reference to it."""
        if "$ref" not in schema:
            return schema
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        return {**self.follow(self.components[schema["$ref"].rpartition("/")[2]]), **beside}

    def forms(self, schema: Json) -> list[Json]:
        """Return all forms that a value may have, null not counted."""
        schema = self.follow(schema)
        found = [form for name in ("anyOf", "oneOf") for one in schema.get(name, []) for form in self.forms(one)]
        if not found:
            return [] if schema.get("type") == "null" else [schema]
        return found

    def nullable(self, schema: Json) -> bool:
        """Tell whether a value may be null."""
        schema = self.follow(schema)
        types = schema.get("type")
        own = types == "null" or (isinstance(types, list) and "null" in types)
        return own or any(self.nullable(one) for name in ("anyOf", "oneOf") for one in schema.get(name, []))

    def type_of(self, schema: Json) -> str:
        """Return a value's type in words."""
        names = list(dict.fromkeys(self._type_of_form(form) for form in self.forms(schema)))
        if self.nullable(schema):
            names.append("null")
        return " or ".join(names) or "null"

    def _type_of_form(self, form: Json) -> str:
        types = form.get("type")
        if isinstance(types, list):
            return " or ".join(one for one in types if one != "null")
        if types == "array":
            return f"list of {self.type_of(form.get('items', {}))}"
        if types is None:
            return "string" if "enum" in form or "const" in form else "any"
        return "time" if form.get("format") == "date-time" else str(types)

    def words_of(self, schema: Json) -> str:
        """Return the words that a value is one of, if it is."""
        forms = [form for form in self.forms(schema) if {"enum", "const"} & form.keys()]
        return "; ".join(text for form in forms for text in _words(form))

    def limits_of(self, schema: Json) -> str:
        """Return what a value has to keep to, in words."""
        found = [text for form in self.forms(schema) for text in _limits(form)]
        found += [
            text for form in self.forms(schema) if "items" in form for text in self._limits_of_each(form["items"])
        ]
        default = self.follow(schema).get("default")
        if default is not None:
            found.append(f"default {code(_shown(default))}")
        return "; ".join(dict.fromkeys(found))

    def _limits_of_each(self, items: Json) -> Iterator[str]:
        found = self.limits_of(items)
        if found:
            yield f"each: {found}"

    def _meaning(self, part: Json) -> str:
        """Return what is told of a field; what an object in it says of itself is about more than the field."""
        if "description" in part:
            return str(part["description"])
        told = [form.get("description", "") for form in self.forms(part) if "properties" not in form]
        return "; ".join(text for text in dict.fromkeys(told) if text)

    def fields(self, schema: Json, prefix: str = "", depth: int = 0) -> Iterator[Field]:
        """Yield the fields of a value, those of the values in it after each."""
        for form in self.forms(schema):
            if form.get("type") == "array":
                yield from self.fields(form.get("items", {}), f"{prefix}[]", depth)
            for name, part in form.get("properties", {}).items():
                path = f"{prefix}.{name}" if prefix else name
                yield Field(
                    path,
                    self.type_of(part),
                    name in form.get("required", []),
                    self.limits_of(part),
                    self.words_of(part),
                    self._meaning(part),
                )
                if depth < DEPTH:
                    yield from self.fields(part, path, depth + 1)

    def example(self, schema: Json, name: str = "") -> Any:
        """Return a value that fits: an example that the schema has, or one after the field's name."""
        schema = self.follow(schema)
        for given in ("examples", "enum"):
            if schema.get(given):
                return schema[given][0]
        for given in ("const", "default"):
            if schema.get(given) is not None:
                return schema[given]
        forms = self.forms(schema)
        if not forms:
            return None
        if forms[0] is not schema:
            return self.example(forms[0], name)
        return self._made(schema, name)

    def _made(self, schema: Json, name: str) -> Any:
        types = schema.get("type")
        if types == "object" or "properties" in schema:
            return {key: self.example(part, key) for key, part in schema.get("properties", {}).items()}
        if types == "array":
            return [self.example(schema.get("items", {}), name)]
        if types == "boolean":
            return True
        if types in {"integer", "number"}:
            return max(schema.get("minimum", 1), 1)
        return _string(schema, name)


def _string(schema: Json, name: str) -> str:
    pattern = schema.get("pattern", "")
    if schema.get("format") == "date-time":
        return TIME
    if "{64}" in pattern:
        return CHAIN_ID
    if pattern == "^-?[0-9]+$":
        return _WEI
    if name in _WORDS:
        return _WORDS[name]
    return UUID if name == "id" or name.endswith("_id") else name.replace("_", " ")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _words(form: Json) -> Iterator[str]:
    if "enum" in form:
        yield "one of " + ", ".join(code(_shown(value)) for value in form["enum"])
    if "const" in form:
        yield f"always {code(_shown(form['const']))}"


def _limits(form: Json) -> Iterator[str]:
    yield from _words(form)
    for least, most, what in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        lower, upper = form.get(least), form.get(most)
        if lower is not None and upper is not None:
            yield f"{_number(lower)} to {_number(upper)}{what}"
        elif lower is not None:
            yield f"at least {_number(lower)}{what if lower != 1 else what.rstrip('s')}"
        elif upper is not None:
            yield f"at most {_number(upper)}{what if upper != 1 else what.rstrip('s')}"
    if "pattern" in form:
        yield f"fits {code(form['pattern'])}"


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else str(value)
