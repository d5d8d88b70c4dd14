"""Inputs and checks for the tests of pi0 and pi0-fast."""
