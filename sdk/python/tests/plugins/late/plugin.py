"""A plugin for the tests whose class is imported in Configure. Arguments: module:Class, kind."""

import sys

import srpo_sdk as srpo

srpo.serve(sys.argv[1], info=srpo.Info("late", doc="imports late"), kind=sys.argv[2], max_lanes=2)
