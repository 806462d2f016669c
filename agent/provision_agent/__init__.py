"""Runs on the instance: downloads, installs, checks and starts what a plan says. Standard library only, Python 3.8+."""
