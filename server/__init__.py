"""The cloud's side: sessions, admission, networks that are kept ready, health, metrics."""
