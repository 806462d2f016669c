"""Real parts for tests: servers that stall, cut and lie on purpose, and say afterwards what they saw."""
