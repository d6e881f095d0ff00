"""From picture files and folders to a training set with captions."""
