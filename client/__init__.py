"""The edge: one client for one inference and for many."""
