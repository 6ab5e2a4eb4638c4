"""Import games from elsewhere: the authors' logs, the released dataset, KILOGRAM's drawings."""
