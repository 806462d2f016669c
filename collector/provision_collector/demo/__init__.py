"""An instance and file hosts on this machine, so that `provision demo` can show the real thing without renting one."""
