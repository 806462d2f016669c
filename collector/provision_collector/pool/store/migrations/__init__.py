"""How the tables came to be, step by step; each step is carried out in its own transaction."""
