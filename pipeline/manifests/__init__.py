"""INPUT: whatever names images, as a stream of rows."""
