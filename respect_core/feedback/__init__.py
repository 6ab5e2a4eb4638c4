"""Decode follow-ups into feedback: positive, neutral or negative (section 4.1)."""
