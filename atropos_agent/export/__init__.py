"""One record, each trainer's own shape. The only place of others' sentinels."""
