"""Where a run lives: a local folder, or a prefix of a bucket."""
