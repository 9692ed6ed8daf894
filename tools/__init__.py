"""Offline tools: profiling, evaluation, planning without running, plots."""
