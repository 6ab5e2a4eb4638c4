"""Record every acknowledged event on disk, so that a restarted server loses none."""
