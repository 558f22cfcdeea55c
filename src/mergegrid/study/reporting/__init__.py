"""Reporting: scores and measurements in, tables, figures and documentation out."""
