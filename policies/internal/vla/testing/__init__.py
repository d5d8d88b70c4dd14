"""Checks of any `vla.learner.Learner`. A plugin's tests import them and describe the plugin in tests/subject.py."""
