"""Our engine against what people would pick instead: `python -m tests.bench`; docs/performance.md tells the rules."""
