"""`ramfleet submit -- tag INPUT --out RUN`: a command of ramfleet on a cluster, by its job server."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.submit import JobEnd, JobServer


def submit(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND…", help="What to run: tag INPUT --out RUN, after a `--`.")
    ] = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    follow: Annotated[str | None, typer.Option(metavar="JOB", help="Follow a job that runs; nothing is sent.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with Ray's token.  [default: RAY_AUTH_TOKEN]")] = None,
    working_dir: Annotated[
        str | None, typer.Option(help="Folder or zip that is sent along, or s3://… that the cluster fetches.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Container image that the job runs in.")] = None,
    pip: Annotated[list[str], typer.Option(help="Package that the cluster installs for it; repeatable.")] = [],  # noqa: B006
    env: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=VALUE]",
            help="Variable of the job, without a value ours; not for keys, as Ray shows them. Repeatable.",
        ),
    ] = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Of the job.  [default: the server chooses]")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow its log.")] = False,
) -> None:
    """Run a command of ramfleet on a cluster and follow its log; Ctrl-C leaves it running."""
    from pipeline.submit import JobServer, Submission

    if (follow is None) == (not command):
        raise typer.BadParameter("give a command, such as: ramfleet submit -- tag INPUT --out RUN; or --follow JOB")
    server = JobServer(address, _token(token_file))
    job = follow
    if job is None:
        words = ("ramfleet", *(command or []))
        job = server.submit(Submission(words, dict(map(_variable, env)), working_dir, image, pip, name))
        typer.echo(f"Job {job} is on {server.address}", err=True)
    if no_wait:
        typer.echo(_again(server, job), err=True)
        return
    try:
        end = server.follow(job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"\nThe job goes on. {_again(server, job)}", err=True)
        raise typer.Exit(130) from None
    _close(job, end)


def _close(job: str, end: "JobEnd") -> None:
    """The job's own exit code, where it is known."""
    if end.status == "SUCCEEDED":
        return
    typer.echo(f"ramfleet: job {job} {end.status.lower()}: {end.message}", err=True)
    raise typer.Exit(end.code or 1)


def _again(server: "JobServer", job: str) -> str:
    return f"Follow it: ramfleet submit --address {server.address} --follow {job}"


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or (not separator and name not in os.environ):
        raise typer.BadParameter(f"--env {text!r}: write NAME=VALUE, or the NAME of a variable that is set here")
    return name, value if separator else os.environ[name]


def _token(file: Path | None) -> str | None:
    """None where the file is not given: Ray then looks into the environment by itself."""
    from pipeline.text_files import read_text

    token = os.environ.get("RAY_AUTH_TOKEN") if file is None else read_text(file, "token_file")
    return token.strip() or None if token is not None else None
