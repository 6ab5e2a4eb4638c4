"""Load base models and adapters, encode conversations, and pack whole games into batches."""
