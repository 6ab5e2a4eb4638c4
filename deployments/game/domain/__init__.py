"""Decide what may happen in a game and in a study: rules, clocks, assignment. Pure: time is passed in."""
