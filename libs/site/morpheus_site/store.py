"""The folder that the gateway serves: what it answers to each address, compressed once and for all, and a manifest of it."""

import gzip
import json
import mimetypes
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from morpheus_site.html import digest_of

MANIFEST = "manifest.json"
_TYPES = {
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_COMPRESSED = frozenset(_TYPES)


@dataclass(frozen=True, slots=True)
class Served:
    """What an address answers. `suffix` says what it is."""

    content: bytes
    suffix: str


def write_site(folder: Path, served: Mapping[str, Served], moved: Mapping[str, str]) -> None:
    """Put the site into `folder`, in the place of one that may be there. `moved`: addresses by their old ones.

    The new one is whole before the old one goes.
    """
    new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    files = {address: _store(new, what) for address, what in sorted(served.items())}
    manifest = {"files": files, "moved": dict(sorted(moved.items()))}
    (new / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _store(folder: Path, what: Served) -> dict[str, str | bool]:
    digest = digest_of(what.content)
    name, content = f"{digest}{what.suffix}", what.content
    compressed = what.suffix in _COMPRESSED
    if compressed:
        # no time of day in it: the same site is the same bytes
        name, content = f"{name}.gz", gzip.compress(content, 9, mtime=0)
    (folder / name).write_bytes(content)
    return {"stored": name, "gzip": compressed, "type": _type_of(what.suffix), "digest": digest}


def _type_of(suffix: str) -> str:
    return _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
