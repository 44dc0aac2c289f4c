"""The server of the page: on this machine's own address, until it is interrupted."""

import socket
from collections.abc import Callable

import uvicorn

from pipeline.errors import InputError
from pipeline.explore.app import HOST, make_app
from pipeline.explore.browse import Browser


def serve(browser: Browser, port: int, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C. port: 0 = one that is free; ready: called with the address when it can be opened.

    Raises InputError for a port that cannot be had.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"--port {port}: {error.strerror}; give another one, or none for one that is free"
            ) from error
        listening.listen()
        # A browser that keeps a connection open does not keep the command from ending.
        settings = uvicorn.Config(
            make_app(browser), log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="off"
        )
        ready(f"http://{HOST}:{listening.getsockname()[1]}/")
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:
            return
