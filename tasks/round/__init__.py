"""Carry out the stages of a round: export, decode, subsample, train, select."""
