"""The simulator's own controls of providers, prompts and answers, and of the forms of errors, under /sim: no auth, no counterpart in the router."""

from aiohttp import web

from proxy_router_sim import params
from proxy_router_sim.behaviour import Behaviour
from proxy_router_sim.errors import BadRequestError
from proxy_router_sim.models import SimulatedModel
from proxy_router_sim.routes.route import FORMS, PROMPTS, SIMULATOR, Route, json_response

_LONGEST_ANSWER = 3_600


async def set_provider(request: web.Request) -> web.Response:
    """Change how a provider behaves; what is not named stays as it is."""
    simulator = request.app[SIMULATOR]
    wish = await params.json_body(request)
    provider = params.address(str(wish.pop("address", "")))
    if provider not in simulator.node.marketplace.providers or not wish:
        raise BadRequestError("address is that of a provider; beside it stands what to change")
    behaviour = simulator.providers.behaviour(provider)
    behaviour.change(wish)
    return json_response({"address": provider, **behaviour.view()})


async def show_providers(request: web.Request) -> web.Response:
    simulator = request.app[SIMULATOR]
    addresses = simulator.node.marketplace.providers
    return json_response([{"address": one, **simulator.providers.behaviour(one).view()} for one in addresses])


async def mend_providers(request: web.Request) -> web.Response:
    """All providers behave well again; handshakes that wait are answered."""
    simulator = request.app[SIMULATOR]
    well = {name: value for name, value in Behaviour().view().items() if name != "waiting"}
    for address in simulator.node.marketplace.providers:
        simulator.providers.behaviour(address).change(well)
    return await show_providers(request)


async def set_forms(request: web.Request) -> web.Response:
    """Choose the version whose errors are told from now on."""
    forms = request.app[FORMS]
    forms.change(await params.json_body(request))
    return json_response({"errors": forms.errors})


async def record_prompts(request: web.Request) -> web.Response:
    """Record prompts from now on, or stop it and forget them."""
    recorded = (await params.json_body(request)).get("recorded")
    if not isinstance(recorded, bool):
        raise BadRequestError("recorded is true or false")
    request.app[PROMPTS].recording = recorded
    if not recorded:
        request.app[PROMPTS].forget()
    return json_response({"recorded": recorded})


async def set_answer_time(request: web.Request) -> web.Response:
    """How long simulated answers take from now on, in seconds of wall time."""
    seconds, model = (await params.json_body(request)).get("seconds"), request.app[SIMULATOR].model
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_ANSWER:
        raise BadRequestError(f"seconds is a number from 0 to {_LONGEST_ANSWER}")
    if not isinstance(model, SimulatedModel):
        raise BadRequestError("answers come from another server, which takes as long as it takes")
    model.answer_seconds = float(seconds)
    return json_response({"seconds": seconds})


async def show_prompts(request: web.Request) -> web.Response:
    return json_response(request.app[PROMPTS].view(request.query.get("match", "")))


ROUTES = [
    Route("POST", "/sim/providers", set_provider, "sim", None),
    Route("GET", "/sim/providers", show_providers, "sim", None),
    Route("DELETE", "/sim/providers", mend_providers, "sim", None),
    Route("POST", "/sim/forms", set_forms, "sim", None),
    Route("POST", "/sim/answers", set_answer_time, "sim", None),
    Route("POST", "/sim/prompts", record_prompts, "sim", None),
    Route("GET", "/sim/prompts", show_prompts, "sim", None),
]
