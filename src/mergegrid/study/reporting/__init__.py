"""Reporting: tidy scores in, tables and figures out."""
