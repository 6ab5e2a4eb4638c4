"""Answer users: a policy that writes legal actions with exact probabilities, batched and cached."""
