"""One run: started, kept alive, carried out step by step, recorded, ended with one verdict."""
