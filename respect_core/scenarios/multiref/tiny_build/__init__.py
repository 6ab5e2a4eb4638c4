"""Train the embedded base model, stage by stage (docs/tiny-build.md)."""
