"""The clusters that are looked at: copies of `deploy/k8s` with what an operator has to add."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.deploy.kubernetes.manifests import SERVICES, SOURCES, Manifests

VALUES: Final = {
    "REPLACE_REGISTRY": "registry.example:5000/team",
    "REPLACE_HOST": "gateway.example",
    "REPLACE_CA": "-----BEGIN CERTIFICATE-----",
    "REPLACE_NATS_URL": "tls://nats-1.example:4222,tls://nats-2.example:4222",
    "REPLACE_INGRESS_NETWORKS": '["10.6.0.0/16"]',
    "REPLACE_STAKE_LIMIT_PER_USER": "1000000000000000000000",
    "REPLACE_STAKE_LIMIT_IN_ALL": "50%",
    "REPLACE_NATS_NETWORK": "10.1.0.0/24",
    "REPLACE_MONGODB_NETWORK": "10.2.0.0/24",
    "REPLACE_VALKEY_NETWORK": "10.3.0.0/24",
    "REPLACE_ROUTER_NETWORK": "10.4.0.0/24",
    "REPLACE_SECRET_STORE": "store",
    "REPLACE_CLUSTER_ISSUER": "issuer",
    "REPLACE_KMS_KEY": "alias/morpheus",
    "REPLACE_KMS_REGION": "eu-central-1",
    "REPLACE_KMS_ROLE": "arn:aws:iam::000000000000:role/morpheus-auth",
    "REPLACE_KMS_NETWORK": "10.5.0.0/24",
}
"""What the tests' own operator has set."""

PLACEHOLDER: Final = re.compile(r"REPLACE_[A-Z_]*[A-Z]")

CLUSTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "trial": ("trial", ()),
    "production": ("production", ()),
    "production and all components": ("production", ("tracing", "vault", "cert-manager", "scale-by-streams")),
    "production and KMS": ("production", ("aws-kms",)),
}
"""Which overlay each is, and the components that it has beside those of the overlay."""


def make_trial_secrets(tree: Path) -> None:
    """Have the trial's own script make its secrets."""
    run = subprocess.run(
        [tree / "overlays" / "trial" / "secrets.sh"],
        env={**os.environ, "MORPHEUS": f"{sys.executable} -m morpheus_devstack"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def secrets_of(tree: Path) -> dict[str, dict[str, str]]:
    """Return what `morpheus secrets` made for the services: what an operator's own store would hold."""
    made = tree / "overlays" / "trial" / "secrets"
    return {
        f"{part}-secrets": {file.name: file.read_text() for file in (made / part).iterdir()}
        for part in (*SERVICES, "ops")
    }


def operators_tree(folder: Path) -> Path:
    """Copy `deploy/k8s` into `folder` with a trial's secrets and production's values set."""
    tree = folder / "k8s"
    shutil.copytree(SOURCES, tree, ignore=shutil.ignore_patterns("secrets"))
    make_trial_secrets(tree)
    for path in (*(tree / "overlays" / "production").rglob("*"), *(tree / "components").rglob("*")):
        if path.is_file():
            path.write_text(PLACEHOLDER.sub(lambda found: VALUES[found.group()], path.read_text()))
    return tree


def built(tree: Path, name: str) -> Manifests:
    """Put together one of `CLUSTERS`."""
    overlay, components = CLUSTERS[name]
    folder = tree / "overlays" / overlay
    if components:
        own = tree / "overlays" / name.replace(" ", "-")
        own.mkdir()
        lines = [
            "namespace: morpheus",
            "resources:",
            f"  - ../{overlay}",
            "components:",
            *(f"  - ../../components/{c}" for c in components),
        ]
        (own / "kustomization.yaml").write_text("\n".join(lines) + "\n")
        folder = own
    outside = {} if overlay == "trial" else secrets_of(tree)
    if "vault" in components:
        outside["auth-secrets"]["VAULT_TOKEN"] = "from Vault"
    return Manifests.built(folder, outside=outside)
