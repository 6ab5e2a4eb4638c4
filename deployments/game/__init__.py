"""Host the game in the browser: people play with deployed policies or with each other (docs/game.md)."""
