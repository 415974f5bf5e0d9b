"""Ready-made parts for frameworks, each behind an extra of its own."""
