"""What both sides must agree on about placement: pure values and functions, no I/O and no clock."""
