"""The apps of the guide on sign-in shapes, written by hand: what an app needs at the least, without this library.

They do PKCE, bind a login to its browser, exchange a code once even if its browser sends it again or leaves, limit the
lifetime and the number of logins, have time limits, repeat what failed for the moment, and explain failures to people
and to scripts. They know one process only: logins are in its memory.
"""
