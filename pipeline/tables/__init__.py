"""What a run writes: the schemas of its tables, what their columns hold, and the parts they are written in."""
