"""The site as `make docs` has built it, asked through the gateway's application. Nothing of it needs a bus."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest
from morpheus_gateway.app import create_app
from morpheus_gateway.documentation import Documentation, documentation
from morpheus_gateway.settings import GatewaySettings
from pydantic import SecretStr

from tests.service.site.pages import Parsed, parse


def application(**settings: Any) -> Any:
    return create_app(GatewaySettings(nats_url="nats://127.0.0.1:1", nats_seed=SecretStr("unused"), **settings))


def client_of(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")


@pytest.fixture(scope="session")
def site() -> Documentation:
    found = documentation()
    assert found is not None, "the site was not built: make docs"
    return found


@pytest.fixture(scope="session")
def pages(site: Documentation) -> Mapping[str, Parsed]:
    """Every HTML page by its address."""
    return {address: parse(file.plain().decode()) for address, file in site.files.items() if file.is_page}


@pytest.fixture(scope="session")
def app(site: Documentation) -> Any:
    app = application()
    assert app.state.documentation is site
    return app


@pytest.fixture
async def http(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app) as client:
        yield client
