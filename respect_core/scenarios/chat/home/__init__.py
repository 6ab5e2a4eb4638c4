"""Simulate a smart home whose users chat with its assistant: the embedded world of chat."""
