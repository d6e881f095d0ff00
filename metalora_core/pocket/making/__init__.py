"""How the small world's files are made."""
