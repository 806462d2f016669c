"""The engine that moves bytes: one pool of connections for all files, each file's map, part, journal and hash.

`decisions` says who fetches what, and touches nothing; `pool` does it with threads and sockets; `transfer` is one
file as the two see it, and what one connection does; `ranges` is the map of a file's bytes.
"""
