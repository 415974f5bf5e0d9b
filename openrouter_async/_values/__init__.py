"""Values: they never touch a socket."""
