"""Start and stop the local stack: Prefect, MLflow, S3 and workers on one machine, without Docker."""
