"""The identity benchmark: methods, photos and steps on many subjects, scored by scorers that know the truth."""
