"""Write summaries, tables and figures of rounds and studies."""
