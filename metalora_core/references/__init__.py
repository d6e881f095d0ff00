"""Reference photos: what they show, what to mend, how they are captioned, whether they suit a prior."""
