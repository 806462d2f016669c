"""The machine that the agent runs on: facts, processes, sockets, detached children."""
