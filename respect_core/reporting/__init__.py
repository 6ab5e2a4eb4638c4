"""Write the report: the paper's tables and figures, and one HTML page."""
