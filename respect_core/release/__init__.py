"""Decide whether a candidate may meet users, and record what was decided and learned."""
