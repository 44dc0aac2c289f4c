"""How the Fleet stands, for people: what is worth a line, and since when nothing can work. Without a clock."""

from collections.abc import Callable


class Standing:
    """stall_timeout_s: so long without a ready replica is a stall; now: seconds, as everywhere here."""

    def __init__(self, stall_timeout_s: float, now: float) -> None:
        self._timeout_s = stall_timeout_s
        self._ready_at = now
        self._said_none = False
        self._notices: list[str] = []

    def say(self, line: str) -> None:
        """For the driver's screen."""
        self._notices.append(line)

    def take(self) -> tuple[str, ...]:
        """What was said since this was asked before."""
        said, self._notices = self._notices, []
        return tuple(said)

    def look(self, ready: int, has_worked: bool, now: float) -> None:
        """ready: replicas that can work; has_worked: whether there ever was one."""
        if ready:
            self._ready_at, self._said_none = now, False
        elif has_worked and not self._said_none:
            self._said_none = True
            self.say(f"no replica is left: waiting up to fleet.stall_timeout_s={self._timeout_s:g} for another")

    def stalled(self, ready: int, now: float, account: Callable[[], str]) -> str | None:
        """Why no replica can work, once that has lasted for the timeout; account: of all slots."""
        if ready or now - self._ready_at < self._timeout_s:
            return None
        return f"no replica of the model for {self._timeout_s:g} s: {account()}"
