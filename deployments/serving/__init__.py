"""The policy server: deployed versions answer users over HTTP (docs/serving.md)."""
