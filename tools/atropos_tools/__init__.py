"""The built-in tools. Each acts through the sandbox of its call's context and keeps no state."""
