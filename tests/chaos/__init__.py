"""An hour of accidents on the local stack while rounds, promotions, games and conversations run: `make test-chaos`."""
