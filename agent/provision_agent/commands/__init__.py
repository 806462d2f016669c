"""What is asked of an instance: one JSON object in, one JSON line out."""
