"""Models, validation and other building blocks that do no I/O."""
