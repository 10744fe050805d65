"""Hands the map to sidecars over xDS: encoded once, sent to all, acknowledged by each."""
