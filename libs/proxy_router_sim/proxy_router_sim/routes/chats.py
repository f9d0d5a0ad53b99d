"""Stored chats (contract section 2.9). There are none unless ``POST /sim/chats`` made the node store them."""

from aiohttp import web

from proxy_router_sim import params
from proxy_router_sim.chats import Chat
from proxy_router_sim.errors import BadRequestError, RouterError
from proxy_router_sim.routes.route import CHATS, Route, json_response


def _chat(request: web.Request) -> Chat:
    chat_id = params.path_id(request)
    found = request.app[CHATS].find(chat_id)
    if found is None:
        raise RouterError(f"open chats/{chat_id}.json: no such file or directory")
    return found


async def chats(request: web.Request) -> web.Response:
    """A bare array."""
    return json_response(
        [
            {
                "chatId": chat.id,
                "modelId": chat.model_id,
                "title": chat.title,
                "isLocal": False,
                "createdAt": chat.created_at,
            }
            for chat in request.app[CHATS].all()
        ]
    )


async def history(request: web.Request) -> web.Response:
    chat = _chat(request)
    return json_response(
        {
            "title": chat.title,
            "modelId": chat.model_id,
            "sessionId": chat.session_id,
            "isLocal": False,
            "messages": chat.messages,
        }
    )


async def rename(request: web.Request) -> web.Response:
    chat = _chat(request)
    chat.title = params.text_field(await params.json_body(request), "title")
    return json_response({"result": True})


async def delete(request: web.Request) -> web.Response:
    request.app[CHATS].delete(_chat(request).id)
    return json_response({"result": True})


async def store_chats(request: web.Request) -> web.Response:
    """PROXY_STORE_CHAT_CONTEXT of the node: whether it stores chats from now on, and panics over some."""
    stored = (await params.json_body(request)).get("stored")
    if not isinstance(stored, bool):
        raise BadRequestError("stored is true or false")
    request.app[CHATS].storing = stored
    return json_response({"stored": stored})


ROUTES = [
    Route("GET", "/v1/chats", chats, "chats", "get_chat_history"),
    Route("GET", "/v1/chats/{id}", history, "chats", "get_chat_history"),
    Route("POST", "/v1/chats/{id}", rename, "chats", "edit_chat_history"),
    Route("DELETE", "/v1/chats/{id}", delete, "chats", "edit_chat_history"),
    Route("POST", "/sim/chats", store_chats, "sim", None),
]
