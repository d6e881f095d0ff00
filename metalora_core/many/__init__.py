"""Many subjects learned in one run: side by side where they fit into one pass, and none stops the others."""
