"""Read and write the log of interactions, and export it to tables."""
