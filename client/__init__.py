"""The edge's side: one client for one inference and for many."""
