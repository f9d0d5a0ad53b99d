"""Start a session worker: `python -m morpheus_sessions`."""

from functools import partial

from morpheus_common.bus.names import User
from morpheus_common.service import run_service

from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.worker import serve


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = SessionsSettings()
    run_service(User.SESSIONS, settings, partial(serve, settings))


if __name__ == "__main__":
    main()
