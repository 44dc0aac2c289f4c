"""X-Robots-Tag: what a server says its images may not be used for."""

from collections.abc import Iterable

FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Directives that keep an image out of here; none stands for noindex and nofollow."""

_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def forbidden_by(headers: Iterable[str], user_agent: str) -> str | None:
    """The first directive of the X-Robots-Tag headers that forbids tagging, or None.

    A header may begin with the name of the robot that its directives are for: `otherbot: noindex`. Names match
    whatever their case, ours by the first word of user_agent.
    """
    ours = user_agent.lower().split("/")[0].split(" ")[0]
    for header in headers:
        agent: str | None = None
        for part in header.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in _WITH_VALUES:
                agent, part = name.strip(), rest
            if agent in (None, "*", ours) and part.strip() in FORBIDDING:
                return part.strip()
    return None
