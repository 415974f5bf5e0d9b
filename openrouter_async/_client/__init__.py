"""The client that users hold, and its operations."""
