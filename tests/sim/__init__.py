"""The simulator: the product's own cores under faults, in virtual time, from a seed."""
