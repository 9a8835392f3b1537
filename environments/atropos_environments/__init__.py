"""Built-in environments, registered through the same entry points as those of third parties."""
