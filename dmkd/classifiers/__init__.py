"""Classifiers, teachers and trained students alike: how they are named, loaded, made, saved and measured."""
