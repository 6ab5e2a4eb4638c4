"""Choose the turns that a variant learns from: eligibility, curated turns, rehearsal, batches."""
