"""Training sets from public data: sharded parquet with a manifest, free of test items."""
