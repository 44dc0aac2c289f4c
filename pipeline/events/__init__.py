"""The event log of a run: what is written down while it works, and who reads it meanwhile."""
