"""The control plane: coordination, map distribution, controllers, jobs and their command line."""
