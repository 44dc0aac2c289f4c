"""What nodes cost, and what a run's money went into."""
