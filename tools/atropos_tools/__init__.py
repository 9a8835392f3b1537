"""Built-in tools, registered through the entry points third parties use."""
