"""What the control plane must agree on: a small tree of versioned values, on ZooKeeper or in an
SQLite file.
"""
