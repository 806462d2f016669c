"""Files that this machine has, or has the keys of: what an instance may get of them, and how."""
