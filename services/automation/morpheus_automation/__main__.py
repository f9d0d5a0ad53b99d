"""Start the automation service: `python -m morpheus_automation`."""

from functools import partial

from morpheus_common.service import run_service

from morpheus_automation.settings import AutomationServiceSettings
from morpheus_automation.worker import SERVICE, serve


def main() -> None:
    """Run until SIGTERM."""
    settings = AutomationServiceSettings()
    run_service(SERVICE, settings, partial(serve, settings))


if __name__ == "__main__":
    main()
