"""What users who poison achieve, with and without the defences: `python -m tests.poisoning`; see docs/poisoning.md."""
