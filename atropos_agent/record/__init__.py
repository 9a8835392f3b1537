"""What is written down: a rollout as JSON, the append-only log, the run directory, redaction."""
