"""The ways of learning a subject that the benchmark compares."""
