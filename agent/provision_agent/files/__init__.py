"""Files that go over the SSH connection: taken from whoever orders a run, and sent to whoever watches it."""
