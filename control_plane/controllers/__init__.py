"""What the leader decides and does, and what every instance watches: nodes, keyspaces, the map."""
