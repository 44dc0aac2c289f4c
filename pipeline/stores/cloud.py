"""Keys, endpoints and regions of object storage: taken from the driver's environment, sent to every node's processes.

They are never part of a configuration, of a run folder or of a message.
"""

import os
from dataclasses import dataclass

import botocore.session
from obstore.exceptions import BaseError, UnknownConfigurationKeyError
from obstore.store import from_url

_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")
_OWN_NODE = ("iam-role", "container-role")
"""Each node asks for these itself, and renews them."""


@dataclass(frozen=True, repr=False)
class CloudEnvironment:
    """Variables that begin with AWS_, GOOGLE_ or AZURE_, by name. What is shown of it are the names alone."""

    variables: dict[str, str]

    @classmethod
    def capture(cls) -> "CloudEnvironment":
        """This process's. A profile of AWS's configuration files becomes its keys, as other nodes lack the files.

        Keys of a role that a profile assumes end with their session; a run that outlives it stops resumably.
        """
        variables = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) and value}
        if "AWS_ACCESS_KEY_ID" not in variables:
            variables |= _profile()
        return cls(variables)

    def __repr__(self) -> str:
        return f"CloudEnvironment({', '.join(sorted(self.variables))})"

    def apply(self) -> None:
        """Set the variables in this process, for libraries that read them there. What it has already stays."""
        for name, value in self.variables.items():
            os.environ.setdefault(name, value)

    @property
    def endpoint(self) -> str | None:
        """The S3 endpoint, where one is named."""
        return self.variables.get("AWS_ENDPOINT_URL_S3") or self.variables.get("AWS_ENDPOINT_URL")

    def options(self, url: str) -> dict[str, str]:
        """Those of the variables that the store of a bucket understands, for obstore's `config`."""
        wanted = {name: value for name, value in self.variables.items() if _understands(url, name, value)}
        if "AWS_ENDPOINT_URL_S3" in self.variables and url.startswith("s3://"):
            wanted["AWS_ENDPOINT_URL"] = self.variables["AWS_ENDPOINT_URL_S3"]
            wanted.pop("AWS_ENDPOINT_URL_S3", None)
        return wanted


def _understands(url: str, name: str, value: str) -> bool:
    try:
        from_url(url, config={name: value})  # type: ignore[call-overload]
    except UnknownConfigurationKeyError:
        return False
    except BaseError:  # half of a pair: the key without the secret
        return True
    return True


def _profile() -> dict[str, str]:
    session = botocore.session.Session()
    resolver = session.get_component("credential_provider")
    for provider in _OWN_NODE:
        resolver.remove(provider)
    credentials = session.get_credentials()
    if credentials is None:
        return {}
    keys = credentials.get_frozen_credentials()
    found = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token,
        "AWS_REGION": session.get_config_variable("region"),
    }
    return {name: value for name, value in found.items() if value}
