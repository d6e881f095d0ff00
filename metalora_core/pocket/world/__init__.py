"""What the small world renders: subjects, scenes and their factors."""
