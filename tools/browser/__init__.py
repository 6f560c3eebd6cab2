"""Knows how the web page is tried in a real browser, headless."""
