"""Measure a model of IDEFICS2-8B's shape on a GPU: `python -m tests.bench gpu` (docs/performance.md, "On a GPU").

Nothing here imports what the machine may lack (pydantic, shapely, TRL): games and pictures are made up, and TRL's
trainers are measured only where they are installed.
"""
