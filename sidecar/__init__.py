"""The sidecar: doors for applications, the cached map, and reads and writes taken straight to the
owners.
"""
