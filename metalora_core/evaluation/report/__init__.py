"""The benchmark's tables, plots and pages."""
