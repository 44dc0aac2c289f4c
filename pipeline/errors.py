"""What the pipeline raises: a small closed tree, each with the exit code that the command line gives it."""


class RunError(Exception):
    """Base of every error that the pipeline raises on purpose. The message is for a person, in one line."""

    exit_code = 1


class ConfigError(RunError):
    """A configuration key is unknown or its value is wrong. May hold several lines, one for each fault."""

    exit_code = 2


class InputError(RunError):
    """INPUT cannot be read as pictures or as a manifest."""

    exit_code = 2


class PinnedError(RunError):
    """A run is asked to go on with another input, bundle or result configuration than it was planned with."""

    exit_code = 2


class StoreError(RunError):
    """The run folder cannot be used: not writable, or its store cannot create an object only if absent."""

    exit_code = 2


class StoreAwayError(StoreError):
    """The store of a run did not answer, or refused, in the middle of work; the same command goes on when it does."""

    exit_code = 3


class ReadOnlyError(RunError):
    """The run was cleaned: its tables are all that is left, and nothing can be added to them."""

    exit_code = 2


class ClusterError(RunError):
    """The cluster cannot run the job: too few CPUs, or a node does not see the run, the input or the bundle."""

    exit_code = 2


class PlanError(RunError):
    """The plan in the run folder is damaged or of another format version."""


class IncompleteError(RunError):
    """The committed chunks do not add up to the plan."""


class StoppedError(RunError):
    """The run stopped early on purpose; running the same command again goes on where it stopped."""

    exit_code = 3


class OutageError(StoppedError):
    """Too many images could not be fetched: the source is taken to be away, and nothing of that is committed."""


class StalledError(StoppedError):
    """No replica of the model was available for `fleet.stall_timeout_s`."""


_LONGEST_CAUSE = 300


def last_line(error: BaseException) -> str:
    """What an error says in the end, without Ray's account of where it was raised and what it may have been."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1] if lines else type(error).__name__
    return said.split(" Some common causes include")[0][:_LONGEST_CAUSE]
