"""What the server keeps of its runs, in a database."""
