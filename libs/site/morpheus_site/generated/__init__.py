"""Pages of the documentation that are written from the code."""

from morpheus_gateway.openapi import document

from morpheus_site.generated.commands import command_page
from morpheus_site.generated.endpoints import endpoint_pages
from morpheus_site.generated.error_catalogue import error_page
from morpheus_site.generated.events import event_page
from morpheus_site.generated.metric_table import metric_page
from morpheus_site.generated.setting_table import setting_page


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its path from the root of the documentation, `api/models/list-models.md`."""
    return {
        **endpoint_pages(document()),
        "commands.md": command_page(),
        "errors.md": error_page(),
        "events-reference.md": event_page(),
        "metrics.md": metric_page(),
        "settings.md": setting_page(),
    }
