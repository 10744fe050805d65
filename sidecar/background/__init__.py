"""The few tasks that run beside the data path; it never waits for them."""
