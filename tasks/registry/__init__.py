"""Register adapters in MLflow, and look up what is registered and deployed."""
