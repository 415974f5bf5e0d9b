"""Where logins are kept: in memory, in the user's browser, or in Redis. Import them from `openrouter_async.login`."""
