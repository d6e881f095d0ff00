"""The identity benchmark: methods, photos and steps on many subjects, scored by readers that know the truth."""
