"""The benchmark's subjects and how a picture of one is scored."""
