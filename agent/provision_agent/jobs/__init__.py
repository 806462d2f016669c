"""Long programs of a run, such as a training: each below a supervisor of its own, which needs neither agent nor keeper."""
