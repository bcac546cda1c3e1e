"""Texts for people: data set cards, model cards, licences."""
