"""Reference photos: what they show, what to improve, whether they suit a prior."""
