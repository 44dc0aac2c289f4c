"""What every process of a run is told about it."""

from dataclasses import dataclass, field

from pipeline.config import Config
from pipeline.passes import FirstPass, Pass
from pipeline.stores.cloud import CloudEnvironment
from pipeline.stores.run_store import RunStore


@dataclass(frozen=True)
class Job:
    """One driver's work on one run.

    session: names this driver process among all that ever worked on the run; bundle: the model's folder;
    image_size: side of the square that images are resized to, in pixels; dtype: resolved, never "auto";
    plan_hash: written into every chunk, so that no chunk is taken for another run's;
    work: which rows of a chunk are to be done, and which object is committed; cloud: the driver's keys, for images in
    buckets.
    """

    config: Config
    store: RunStore
    session: str
    bundle: str
    image_size: int
    dtype: str
    plan_hash: str
    work: Pass = field(default_factory=FirstPass)
    cloud: CloudEnvironment = field(default_factory=CloudEnvironment.capture)
