"""Mirror the log of anybody's script, with or without python3 on the instance."""
