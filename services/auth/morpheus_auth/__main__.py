"""Start the auth service: `python -m morpheus_auth`."""

import ctypes
import resource
from functools import partial

from morpheus_common.service import run_service

from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import SERVICE, serve

PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Let no crash write this process's memory, where keys are, to a disk.

    The limit alone would not do: the kernel ignores it for a core that is piped to a program (core(5)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Run until SIGTERM."""
    forbid_core_dumps()
    settings = AuthSettings()
    run_service(SERVICE, settings, partial(serve, settings))


if __name__ == "__main__":
    main()
