"""Labels of Ray nodes: the words in which a cluster says what a node is. What reads them and what writes them is here.

Those of `ray.io/` are Ray's own. It finds a card's by itself; the others have to be given to the node.
"""

ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Card, as Ray names it: "A100", "GeForce-RTX-3090"."""
MARKET_LABEL = "ray.io/market-type"
"""spot or on-demand."""
ZONE_LABEL = "ray.io/availability-zone"
REGION_LABEL = "ray.io/availability-region"
GROUP_LABEL = "ray.io/node-group"
"""Which group of the cluster file the node is of; KubeRay and `ray up` set it."""
INSTANCE_LABEL = "ramfleet/instance-type"
"""The machine, by which prices are found; Ray has no label for it."""
VRAM_LABEL = "ramfleet/vram-gib"
"""Memory of one card in GiB, where it cannot be read or cards of one name differ."""
INSTANCE_LABELS = (INSTANCE_LABEL, "node.kubernetes.io/instance-type")
"""Our own, or Kubernetes's where it is copied to the Ray node."""
READ_LABELS = frozenset(
    {ACCELERATOR_LABEL, MARKET_LABEL, ZONE_LABEL, REGION_LABEL, GROUP_LABEL, VRAM_LABEL, *INSTANCE_LABELS}
)
"""All that runs and ledgers read."""
