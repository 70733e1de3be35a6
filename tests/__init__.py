"""Tests of promptwise."""
