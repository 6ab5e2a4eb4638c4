"""Run heavy work in a process of its own, on this machine or on Ray."""
