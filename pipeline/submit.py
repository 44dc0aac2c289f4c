"""A command on a cluster that runs elsewhere: handed to its job server, and its log followed from here."""

import asyncio
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ClusterError, ConfigError, last_line

_ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Ray takes this before any address that it is called with."""
_TOKEN = "RAY_AUTH_TOKEN"
_SECRET = re.compile("SECRET|PASSWORD|TOKEN|_KEY$", re.IGNORECASE)
"""Names of variables that hold keys."""
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Submission:
    """What is to run. command: words of the entry point; environment: variables of the job and its workers.

    working_dir: a local folder or zip that is sent along, or a remote one that the cluster fetches; image: container
    image of the workers; pip: packages that the cluster installs for the job; id: its name, None = any.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    image: str | None = None
    pip: Sequence[str] = ()
    id: str | None = None


@dataclass(frozen=True)
class JobEnd:
    """How a job ended. status: SUCCEEDED, FAILED or STOPPED; message: the server's; code: of its driver, if known."""

    status: str
    message: str
    code: int | None


class JobServer:
    """The job server of a cluster.

    address: http(s)://host:port of its dashboard. token: Ray's, if it asks for one that the environment does not have.
    Raises ClusterError where it does not answer, is no job server, or refuses the token.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"address={address}: write http://HOST:8265 of the cluster's dashboard")
        from ray.job_submission import JobSubmissionClient

        self.address = address.rstrip("/")
        os.environ[_ADDRESS] = self.address
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with self._asked():
            self._client = JobSubmissionClient(self.address, headers=headers)

    def submit(self, submission: Submission) -> str:
        """Start a job; its id. Raises ConfigError for a working folder that is not there, or is not to be sent."""
        environment = runtime_environment(submission)
        with self._asked():
            try:
                return str(
                    self._client.submit_job(
                        entrypoint=shlex.join(submission.command),
                        runtime_env=environment,
                        submission_id=submission.id,
                    )
                )
            except ValueError as error:  # a folder that is too large, a zip that is none
                raise ConfigError(f"working_dir={submission.working_dir}: {last_line(error)}") from error

    def follow(self, job: str, write: Callable[[str], None]) -> JobEnd:
        """Hand the log of a job to `write`, from its beginning, until it ends. An interrupt leaves the job running."""
        return asyncio.run(self._follow(job, write))

    async def _follow(self, job: str, write: Callable[[str], None]) -> JobEnd:
        """A connection that breaks is made again, and begins again: what was written is passed over."""
        written = 0
        while (end := self._end_of(job)) is None:
            written = await self._tail(job, write, written)
            await asyncio.sleep(_PAUSE_S)
        with self._asked():
            write(str(self._client.get_job_logs(job))[written:])
        return end

    async def _tail(self, job: str, write: Callable[[str], None], written: int) -> int:
        """Characters written so far, when the connection ends."""
        import aiohttp

        seen = 0
        with suppress(RuntimeError, aiohttp.ClientError):  # whether the server is still there is asked next
            async for text in self._client.tail_job_logs(job):
                write(text[max(0, written - seen) :])
                seen += len(text)
                written = max(written, seen)
        return written

    def _end_of(self, job: str) -> JobEnd | None:
        with self._asked():
            info = self._client.get_job_info(job)
        if not info.status.is_terminal():
            return None
        return JobEnd(info.status.value, " ".join((info.message or "").split()), info.driver_exit_code)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Within, what the server does not answer is a ClusterError of one line."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"address={self.address}: no token, or a wrong one: give --token-file, or set {_TOKEN}"
            ) from error
        except (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise ClusterError(
                f"address={self.address}: nothing answers there: give the address of the cluster's dashboard, such as "
                f"http://HOST:8265 (on Kubernetes after: kubectl port-forward service/CLUSTER-head-svc 8265)"
            ) from error
        except requests.exceptions.JSONDecodeError as error:
            raise ClusterError(f"address={self.address}: what answers there is no job server of Ray") from error
        except (requests.exceptions.RequestException, RuntimeError) as error:
            raise ClusterError(f"address={self.address}: {last_line(error)}") from error


def runtime_environment(submission: Submission) -> dict[str, Any]:
    """Ray's runtime environment of a job.

    Raises ConfigError for a local working_dir that is not there, and for variables that look like keys.
    """
    place = submission.working_dir
    if place is not None and "://" not in place and not os.path.exists(place):
        raise ConfigError(f"working_dir={place}: not there: give a folder or a zip")
    if submission.image is not None and (submission.pip or place is not None):
        raise ConfigError("image: an image has all that the job needs: leave out working_dir and pip")
    told = [name for name in submission.environment if _SECRET.search(name)]
    if told:
        raise ConfigError(
            f"env={', '.join(told)}: Ray shows a job's variables in its dashboard and logs: give keys to the cluster "
            f"instead, as a Secret of its pods or by a role of its machines"
        )
    wanted: dict[str, Any] = {
        "env_vars": dict(submission.environment),
        "working_dir": place,
        "pip": list(submission.pip),
        "image_uri": submission.image,
    }
    return {key: value for key, value in wanted.items() if value}
