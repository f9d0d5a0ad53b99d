"""HTML as it is served: nothing inline, so that the strictest Content-Security-Policy holds, and addresses that begin with `/`."""

import hashlib
import re
from collections.abc import Mapping
from html import escape, unescape
from urllib.parse import urljoin, urlsplit

STATIC = "/docs/_static"
STYLES = f"{STATIC}/style-attributes.css"
_INLINE = re.compile(r"<(?P<tag>script|style)>(?P<text>.*?)</(?P=tag)>", re.DOTALL)
_TAG = re.compile(r"<[a-zA-Z][^<>]*>")
_ADDRESS = re.compile(r' (?P<name>href|src|action|data-content_root)="(?P<value>[^"]*)"')
_STYLE = re.compile(r' style="(?P<rules>[^"]*)"')
_MENDED = {
    # a heading of no level
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    # two landmarks of one name
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    '<aside class="toc-drawer">': '<aside class="toc-drawer" aria-label="On this page">',
    '<aside class="toc-drawer no-toc">': '<aside class="toc-drawer no-toc" aria-label="On this page">',
    # what scrolls to the side has to be reached without a mouse
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    # the corner above a first column without a name
    '<th class="head"><p></p></th>': '<td class="head"></td>',
}
"""What furo and docutils write, and what has to stand there."""


def digest_of(content: bytes) -> str:
    """Return what an address or an ETag names this content by."""
    return hashlib.sha256(content).hexdigest()[:16]


def without_inline(text: str, extracted: dict[str, bytes], attributes: dict[str, str]) -> str:
    """Return the page with its inline scripts and styles moved to files of their own, which are added to `extracted`.

    What stands in `style` attributes is added to `attributes`; `style_sheet` makes it a file, for all pages the same.
    """

    def moved(match: re.Match[str]) -> str:
        content = match["text"].strip().encode() + b"\n"
        suffix = "js" if match["tag"] == "script" else "css"
        address = f"{STATIC}/inline-{digest_of(content)}.{suffix}"
        extracted[address] = content
        return f'<script src="{address}"></script>' if suffix == "js" else f'<link rel="stylesheet" href="{address}">'

    def named(match: re.Match[str]) -> str:
        rules = unescape(match["rules"])
        name = digest_of(rules.encode())
        attributes[name] = rules
        return f' data-style="{name}"'

    text = _TAG.sub(lambda tag: _STYLE.sub(named, tag.group()), _INLINE.sub(moved, text))
    return text.replace("</head>", f'<link rel="stylesheet" href="{STYLES}"></head>', 1)


def style_sheet(attributes: Mapping[str, str]) -> bytes:
    """Return what stood in `style` attributes."""
    return "".join(f'[data-style="{name}"] {{ {rules} }}\n' for name, rules in sorted(attributes.items())).encode()


def accessible(text: str) -> str:
    """Return the page with what the theme leaves open for those who hear or tab through it."""
    for left, mended in _MENDED.items():
        text = text.replace(left, mended)
    return text


def with_absolute_addresses(text: str, page: str, digests: Mapping[str, str]) -> str:
    """Return the page with every relative address resolved; `page` is the address that Sphinx thinks it has, with its slash.

    An asset's address gets its digest as `?v=`, so that it can be kept for ever.
    """

    def resolved(match: re.Match[str]) -> str:
        value = match["value"]
        if match["name"] == "data-content_root":
            return ' data-content_root="/docs/"'
        if value.startswith("#") or urlsplit(value).scheme:
            return match.group()
        parts = urlsplit(urljoin(page, value))
        path = parts.path.removesuffix("/") or "/"
        query = f"?v={digests[path]}" if path in digests else ""
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        return f' {match["name"]}="{path}{query}{fragment}"'

    return _TAG.sub(lambda tag: _ADDRESS.sub(resolved, tag.group()), text)


def with_head(text: str, *, description: str, markdown: str) -> str:
    """Return the page with what search engines and language models look for in its head."""
    added = f'<link rel="alternate" type="text/markdown" href="{markdown}">'
    if description:
        added = f'<meta name="description" content="{escape(description)}">{added}'
    return text.replace("</head>", f"{added}</head>", 1)
