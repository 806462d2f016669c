"""The connections of all files: ranges, hashes, part files, and how many at once."""
