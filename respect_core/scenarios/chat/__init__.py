"""Implement chat: any conversation between a person and an assistant, from logs in the formats that people have."""
