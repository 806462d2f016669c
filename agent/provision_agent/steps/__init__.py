"""What a run does, one file per kind of step: apt, repositories, files, commands, checks, nodes, Python."""
