"""What people write as a file's address, and what its source says about it."""
