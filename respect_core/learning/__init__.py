"""Train variants: objectives, losses, gradients, checkpoints and validation (section 4.2)."""
