"""Who works on a run: a driver says so in the event log, and that it still does, for `ramfleet status`."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.events.log import EventLog
from pipeline.stores.run_store import RunStore

ALIVE_EVERY_S = 30.0
AT_WORK_S = 90.0
"""A driver is taken to be at work if any of its processes wrote an event in so many seconds."""


@contextmanager
def at_work(store: RunStore, session: str, command: str, bundle: str) -> Iterator[None]:
    """Within: this process is a driver of the run. command: "tag" or "retry"; bundle: the model's folder."""
    log = EventLog(store, session, "session")
    log.write("driver_started", command=command, host=socket.gethostname(), pid=os.getpid(), bundle=bundle)
    ended = threading.Event()
    thread = threading.Thread(target=_say_so, args=(log, ended), name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        log.write("driver_ended")
        log.close()


def _say_so(log: EventLog, ended: threading.Event) -> None:
    while not ended.wait(ALIVE_EVERY_S):
        log.write("driver_alive")
