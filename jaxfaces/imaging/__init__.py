"""Pure image functions, and the pictures of reports."""
