"""Image bytes from where the uri says: local files, buckets, the web, members of tars, rows of Parquet files."""
