"""Where model-written commands run."""
