"""What a replica stores and how to talk to one, for sidecars and for the control plane's jobs."""
