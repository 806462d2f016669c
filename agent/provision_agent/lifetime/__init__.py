"""What ends an instance by itself, with nobody listening: a process that stays after the run and measures its time."""
