"""Send the stages that need an accelerator to this machine, a Prefect work pool or Ray."""
