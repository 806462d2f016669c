"""What the instance's programs run in: packages of the system, a virtual environment, wheels, git checkouts."""
