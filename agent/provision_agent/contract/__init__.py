"""What the two halves say to each other and to users. Pure: standard library only, imports nothing of ours."""
