"""The settings that a pod starts with, read by the code that reads them there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from morpheus_common.settings import SECRETS_DIR, EnvironmentSettings

from tests.deploy.kubernetes.manifests import Manifests, Pod

S = TypeVar("S", bound=EnvironmentSettings)


def settings_of(manifests: Manifests, pod: Pod, model: type[S]) -> S:
    """Return them. Raises pydantic's `ValidationError` where the pod would not start."""
    with _environment(manifests.environment(pod), manifests.secret_files(pod)):
        return model()


@contextmanager
def _environment(variables: dict[str, str], files: dict[str, str]) -> Iterator[None]:
    """Let the process's environment be that of a pod, with files where and as Kubernetes mounts them."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        # files of a mounted Secret are links into a folder that a change replaces as a whole
        data = Path(folder) / "..2026_11_27"
        data.mkdir()
        (Path(folder) / "..data").symlink_to(data.name)
        for name, value in files.items():
            (data / name).write_text(value)
            (Path(folder) / name).symlink_to(Path("..data") / name)
        os.environ.clear()
        os.environ.update(variables)
        if SECRETS_DIR in variables:
            os.environ[SECRETS_DIR] = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
