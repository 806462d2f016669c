"""Send the new bytes of growing files as frames, from any offset, through rotation and truncation."""
