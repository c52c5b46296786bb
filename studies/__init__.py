"""Experiments over grids of configs: tables of numbers, their statistics, figures and pages."""
