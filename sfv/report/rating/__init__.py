"""Blind rating of videos by people: a page that asks, files that keep, a summary with agreement."""
