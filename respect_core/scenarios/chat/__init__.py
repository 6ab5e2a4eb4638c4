"""Any conversation of users with an assistant, in text: RESPECT without a game."""
