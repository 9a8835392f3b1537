"""Built-in environments, registered through the entry points third parties use."""
