"""The API reference with a console to try it: Swagger UI on a page of its own, with rules of ours around it."""

import json
from collections.abc import Mapping
from html import escape

NAME = "reference"
WITHOUT_CONSOLE = "reference/without-console"
"""The same without the console; the gateway serves it in the place of the other when it is told to."""
SOURCE = f"{NAME}.md"
TEXT = """\
# Try the API

Every endpoint with what it takes and answers, read from the running gateway's own [OpenAPI document](/openapi.json), and a console
that sends requests to it. Credentials stay in the page's memory and are gone with it; requests go to this gateway only; the console
asks before it sends what spends MOR or cannot be taken back. An operator can switch the console off (`DOCS_TRY_IT=false`): then this
page only describes.
"""

_SESSION = "It locks a stake of MOR on chain until the session is closed or has run out."
_PROMPT = "It sends your prompt to a provider, and can open a session, which locks a stake of MOR on chain."
QUESTIONS: Mapping[str, str] = {
    "POST /api/v1/session/approve": "It lets the marketplace's contract spend MOR of the gateway's wallet, and costs gas.",
    "POST /api/v1/session/modelsession": _SESSION,
    "POST /api/v1/session/bidsession": _SESSION,
    "POST /api/v1/session/closesession": "It closes your sessions on chain. After an early close the stake stays locked until midnight UTC.",
    "POST /api/v1/session/pingsession": "It sends a short prompt to the provider, and closes the session if that fails.",
    "POST /api/v1/chat/completions": _PROMPT,
    "POST /api/v1/embeddings": _PROMPT,
    "PUT /api/v1/automation/settings": "With automation on, your prompts open sessions by themselves, each of which locks a stake of MOR.",
    "DELETE /api/v1/auth/register": "It deletes the account with everything that belongs to it. This cannot be taken back.",
    "DELETE /api/v1/auth/keys/{key_id}": "It ends this API key for ever and closes its sessions on chain.",
    "POST /api/v1/auth/keys/{key_id}/rotate": "It puts a new API key in this one's place, which then works for a while only.",
    "DELETE /api/v1/auth/private-key": "It deletes the private key that is kept for you. This cannot be taken back.",
    "DELETE /api/v1/auth/delegation/{delegation_id}": "It deletes the delegation. This cannot be taken back.",
    "POST /api/v1/auth/password": "It changes your password and ends all other logins.",
    "POST /api/v1/auth/password/reset": "It changes the password and ends all logins.",
}
"""What the console says before it sends these."""
UNASKED = frozenset(
    {
        "POST /api/v1/auth/register",
        "POST /api/v1/auth/login",
        "POST /api/v1/auth/refresh",
        "POST /api/v1/auth/logout",
        "POST /api/v1/auth/keys",
        "PATCH /api/v1/auth/keys/{key_id}",
        "POST /api/v1/auth/private-key",
        "POST /api/v1/auth/delegation",
    }
)
"""What changes something and is sent without a question: it spends nothing and can be undone. All else that is no GET is asked about."""

_SAID_OF_CONSOLE = (
    "What you enter stays in this page's memory and goes to this gateway only. Before a request that spends MOR or cannot be "
    "taken back you are asked."
)


def html(*, try_it: bool) -> str:
    """Return the page. `try_it`: with the console."""
    settings = {"tryIt": try_it, "questions": QUESTIONS, "unasked": sorted(UNASKED)}
    # a `</script>` in it would end the element
    embedded = json.dumps(settings).replace("<", "\\u003c")
    summary = "Every endpoint, and a console to try it" if try_it else "Every endpoint"
    said = (
        _SAID_OF_CONSOLE if try_it else "The operator of this gateway has switched off the console that sends requests."
    )
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="description" content="{escape(summary)}">
<title>{"Try the API" if try_it else "API reference"} - Morpheus API Gateway</title>
<link rel="alternate" type="text/markdown" href="/docs/{NAME}.md">
<link rel="icon" href="/docs/_static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/docs/_static/swagger-ui/swagger-ui.css">
<link rel="stylesheet" href="/docs/_static/reference.css">
<script src="/docs/_static/reference-theme.js"></script>
<script src="/docs/_static/swagger-ui/swagger-ui-bundle.js" defer></script>
<script src="/docs/_static/reference.js" defer></script>
</head>
<body>
<a class="skip" href="#{NAME}">Skip to content</a>
<header><nav aria-label="Documentation"><a href="/docs">Documentation</a> <a href="/docs/api">Endpoints</a> <a href="/docs/errors">Errors</a></nav></header>
<main id="{NAME}" tabindex="-1"><h1>{"Try the API" if try_it else "API reference"}</h1>
<p>Read from this gateway's <a href="/openapi.json">OpenAPI document</a>. {said}</p>
<noscript><p>This page needs JavaScript. <a href="/docs/api">The endpoints</a> are described without it.</p></noscript>
<h2 class="unseen">Endpoints</h2>
<div id="swagger-ui"></div></main>
<script type="application/json" id="reference-settings">{embedded}</script>
</body>
</html>
"""
