"""Clocks, servers and gates that the tests share."""
