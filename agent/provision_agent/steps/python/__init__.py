"""The Python environment of a plan: found or made, filled, guarded and repaired."""
