"""The cloud: sessions, admission, cached networks, health, metrics."""
