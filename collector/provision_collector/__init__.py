"""Runs here: profiles, SSH, exact mirrors, verdicts."""
