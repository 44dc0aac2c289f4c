"""A local web page over a finished run: search, images with their scores, rejects, and thresholds that can be tried."""
