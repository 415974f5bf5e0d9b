"""How one call gets its response: middlewares, retries, transport."""
