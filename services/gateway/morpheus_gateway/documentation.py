"""The documentation site, as `make docs` has built it into this package: all of it in memory, compressed."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

FOLDER = Path(__file__).parent / "site"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What one address answers. `digest` names the content before it was compressed."""

    content: bytes
    is_compressed: bool
    media_type: str
    digest: str

    @property
    def etag(self) -> str:
        """Weak: it is the same for the compressed and the plain form."""
        return f'W/"{self.digest}"'

    @property
    def is_page(self) -> bool:
        """HTML, which a browser would run what is in it of."""
        return self.media_type.startswith("text/html")

    def plain(self) -> bytes:
        """Return the content for a client that takes nothing compressed."""
        return gzip.decompress(self.content) if self.is_compressed else self.content


@dataclass(frozen=True, slots=True)
class Documentation:
    """The site: files by address, and where pages that had another address have gone.

    An address is looked up and never made a path of: there is no way from it to a file.
    """

    files: Mapping[str, StoredFile]
    moved: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Self | None:
        """Read the site in `folder`; None if none was built.

        It is read once and whole (about 2 MB): a site that is built anew below a running gateway does not mix with this one.
        """
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            return None
        listed = json.loads(manifest.read_text())
        files = {
            address: StoredFile(
                content=(folder / file["stored"]).read_bytes(),
                is_compressed=file["gzip"],
                media_type=file["type"],
                digest=file["digest"],
            )
            for address, file in listed["files"].items()
        }
        return cls(files, listed["moved"])


@cache
def documentation() -> Documentation | None:
    """Return the site in this package, read once a process."""
    return Documentation.load()
