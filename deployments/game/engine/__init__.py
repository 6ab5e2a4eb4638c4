"""Run games: rooms, clocks, the lobby, policy turns, and the way into the store."""
