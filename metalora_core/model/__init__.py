"""The base model as the method sees it: host protocol, targets, objective, sampling, families."""
