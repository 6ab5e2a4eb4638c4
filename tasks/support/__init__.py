"""Share what tasks need: workspaces, atomic files, retries, progress, interruption."""
