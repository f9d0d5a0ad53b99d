"""Start the auth service: `python -m morpheus_auth`."""

from morpheus_common.service import run_service

from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import SERVICE, serve


def main() -> None:
    """Run until SIGTERM."""
    settings = AuthSettings()
    run_service(SERVICE, settings, lambda: serve(settings))


if __name__ == "__main__":
    main()
