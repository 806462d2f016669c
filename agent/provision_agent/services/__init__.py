"""Programs that outlive the run: started once, watched by a supervisor, adopted when they run already."""
