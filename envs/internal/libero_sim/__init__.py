"""Shared by the plugins libero and libero-plus: lanes, scenes, fast steps, rendering and the scripted expert."""
