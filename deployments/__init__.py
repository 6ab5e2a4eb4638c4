"""Run the product: the command line, the local stack, the policy server and the game."""
