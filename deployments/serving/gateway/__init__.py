"""Talk to users over OpenAI's chat API: streams, a version for each conversation, and a log for the next round."""
